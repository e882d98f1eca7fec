"""A cluster: an accelerator, how many a node, what connects them, and the share of their peak that models reach."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from anybatch.accelerators import Accelerator, Precision
from anybatch.errors import InputError

# The kind of arithmetic that dominates a model; accelerators reach different shares of their peak on each.
Family = Literal["transformer", "convolution"]

# Without tensor cores, products take most of a step, which reaches this share. But elementwise work on fp32 moves
# twice the bytes of 16 bits, so a step takes at least twice as long.
_FP32_MFU = 0.7


@dataclass(frozen=True)
class Link:
    """The link of one device: bytes/s in one direction and seconds a hop.

    `efficiency` is the share of the bandwidth that large collectives reach. On a "torus" all devices are neighbors in
    a square of two dimensions, and `bytes_per_s` is the sum over all links of a device; "switched" links connect any
    two devices.
    """

    bytes_per_s: float
    latency_s: float
    efficiency: float = 0.75
    topology: Literal["switched", "torus"] = "switched"

    @property
    def rate(self) -> float:
        return self.bytes_per_s * self.efficiency


@dataclass(frozen=True)
class Mfu:
    """Model FLOPs utilization: the share of the dense peak that a model's FLOPs reach at a large micro-batch.

    `source`: its origin. `measured` is False if it was carried over from other hardware, or assumed.
    """

    share: float
    source: str
    measured: bool = True


@dataclass(frozen=True)
class Cluster:
    """A kind of hardware, in any number up to `most_devices`.

    Args:
        devices_a_node: beyond one node, whole nodes only.
        inside, between: the links of one device, within its node and to other nodes.
        mfu: the MFU of 16-bit runs by family; of another precision as in "transformer-fp8".
        overlap: the share of the backward pass that can hide an all-reduce.
        jitter: the standard deviation of a device's step over its mean; all devices wait for the slowest.
        launch_s: the minimum time of a kernel, even if it computes little; it keeps small batches slow.
        host_bytes_per_s: the speed at which a node can read and send to its devices.
        storage_bytes_per_s: the speed at which a checkpoint is written.
        price: US dollars a device an hour; None if no price was found. `price_source` names the source.
        auto_precision: the choice of engine.precision=auto.
    """

    name: str
    title: str
    accelerator: Accelerator
    devices_a_node: int
    most_devices: int
    inside: Link
    between: Link
    mfu: Mapping[str, Mfu]
    overlap: float = 0.8
    jitter: float = 0.02
    launch_s: float = 4e-6
    host_bytes_per_s: float = 20e9
    storage_bytes_per_s: float = 2e9
    price: float | None = None
    price_source: str = ""
    auto_precision: str = "bf16"

    def check_devices(self, num_devices: int) -> int:
        """Returns `num_devices`, if this cluster comes in this number.

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

    def arithmetic(self, asked: str, family: Family) -> Precision:
        """Returns the precision of a run with engine.precision=`asked`: torch computes fp32 convolutions in TF32.

        Submissions in fp8 are planned in 16 bits if none is known for this accelerator.

        Raises:
            InputError: the accelerator has no units for this precision.
        """
        peaks = self.accelerator.peak_flops
        if asked == "auto" or (asked == "fp8" and f"{family}-fp8" not in self.mfu):
            asked = self.auto_precision
        if asked == "fp32" and family == "convolution" and "tf32" in peaks:
            return "tf32"
        for precision in peaks:
            if precision == asked:
                return precision
        raise InputError(f"engine.precision = {asked}: {self.accelerator.name} has units for {', '.join(peaks)} only")

    def mfu_of(self, family: Family, precision: Precision) -> Mfu:
        """Returns the share of the peak in `precision`; if that of fp32 or TF32 is unknown, derives it from 16 bits."""
        found = self.mfu.get(f"{family}-{precision}", self.mfu[family])
        if precision in ("bf16", "fp16", "fp8") or f"{family}-{precision}" in self.mfu:
            return found
        peaks = self.accelerator.peak_flops
        half = max(peaks.get("bf16", 0.0), peaks.get("fp16", 0.0)) * found.share / 2
        most = 1.0 if precision == "tf32" else _FP32_MFU
        share = min(most, half / peaks[precision]) if half else found.share
        bound = f"at most {most:.0%} of the peak, and half as fast as 16 bits" if half else "that of other precisions"
        return Mfu(share, f"assumed for {precision}: {bound} ({found.source})", measured=False)

    def flops(self, family: Family, precision: Precision) -> float:
        """Returns the FLOP/s of a model of `family`."""
        return self.accelerator.peak_flops[precision] * self.mfu_of(family, precision).share

    def with_mfu(self, family: Family, precision: Precision, mfu: Mfu) -> "Cluster":
        """Returns the same cluster with another share."""
        return replace(self, mfu={**self.mfu, f"{family}-{precision}": mfu})
