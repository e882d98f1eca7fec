"""What a cluster is: an accelerator, how many a node, and what connects them."""

from dataclasses import dataclass

from anybatch.errors import InputError
from anybatch.planner.accelerators import Accelerator
from anybatch.planner.collectives import Link


@dataclass(frozen=True)
class Cluster:
    """A kind of hardware, in any number up to `most_devices`.

    Args:
        devices_a_node: beyond one node, whole nodes only.
        inside, between: the links of one device, within its node and to other nodes.
        overlap: the share of the backward pass behind which an all-reduce can hide.
        jitter: standard deviation of a device's step over its mean; all wait for the slowest.
        host_bytes_per_s: what a node can read and send to its devices.
        storage_bytes_per_s: what a checkpoint is written at.
        price: of a device an hour, in US dollars; None where no price was read. `price_source` says where.
    """

    name: str
    title: str
    accelerator: Accelerator
    devices_a_node: int
    most_devices: int
    inside: Link
    between: Link
    overlap: float = 0.8
    jitter: float = 0.02
    host_bytes_per_s: float = 20e9
    storage_bytes_per_s: float = 2e9
    price: float | None = None
    price_source: str = ""

    def check_devices(self, num_devices: int) -> int:
        """`num_devices`, where this cluster comes in that number.

        Raises:
            InputError: below 1, above `most_devices`, or a part of a node beyond the first.
        """
        if num_devices < 1:
            raise InputError(f"--devices {num_devices}: must be at least 1")
        if num_devices > self.most_devices:
            raise InputError(f"--devices {num_devices}: {self.name} has at most {self.most_devices:,}")
        if num_devices > self.devices_a_node and num_devices % self.devices_a_node:
            raise InputError(
                f"--devices {num_devices}: {self.name} has {self.devices_a_node} a node; beyond one node give a "
                f"multiple of {self.devices_a_node}"
            )
        return num_devices

    def nodes(self, num_devices: int) -> int:
        return -(-num_devices // self.devices_a_node)
