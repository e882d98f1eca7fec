"""How long an all-reduce takes: latency and bandwidth, ring and tree, inside nodes and between them."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Link:
    """What one device sends through: bytes/s in one direction and seconds a hop.

    `achieved` is the share of the bandwidth that large collectives reach. On a "torus" all devices are neighbours in a
    square of two dimensions, and `bytes_per_s` is that of all links of a device together; "switched" links connect any
    two.
    """

    bytes_per_s: float
    latency_s: float
    achieved: float = 0.75
    topology: Literal["switched", "torus"] = "switched"

    @property
    def rate(self) -> float:
        return self.bytes_per_s * self.achieved


def all_reduce_s(
    num_bytes: float, num_devices: int, devices_a_node: int, inside: Link, between: Link, num_messages: int = 1
) -> float:
    """Seconds to sum `num_bytes` over `num_devices`, sent in `num_messages` pieces.

        inside a node of g    reduce-scatter and all-gather: 2 (g-1)/g n / rate + 2 (g-1) latency
        between N nodes       on n/g bytes a device, the better of
            ring              2 (N-1)/N n/g / rate + 2 (N-1) latency
            tree              2 n/g / rate + 2 log2(N) latency
        on a torus            2 (D-1)/D n / rate + 4 (sqrt(D)-1) latency

    Source: Thakur et al. 2005, Optimization of Collective Communication Operations in MPICH; NCCL's double binary
    trees have the tree's latency at the ring's bandwidth.
    """
    if num_devices == 1:
        return 0.0
    if inside.topology == "torus":
        share = 2 * (num_devices - 1) / num_devices
        return share * num_bytes / inside.rate + num_messages * 4 * (math.sqrt(num_devices) - 1) * inside.latency_s
    local = min(num_devices, devices_a_node)
    nodes = math.ceil(num_devices / devices_a_node)
    total = 0.0
    if local > 1:
        total += 2 * (local - 1) / local * num_bytes / inside.rate + num_messages * 2 * (local - 1) * inside.latency_s
    if nodes > 1:
        part = num_bytes / local
        ring = 2 * (nodes - 1) / nodes * part / between.rate + num_messages * 2 * (nodes - 1) * between.latency_s
        tree = 2 * part / between.rate + num_messages * 2 * math.log2(nodes) * between.latency_s
        total += min(ring, tree)
    return total
