"""Predicts one step, part by part: computing, launches, messages, the optimizer, waiting."""

import math
from statistics import NormalDist

from anybatch.planner.cluster import Cluster
from anybatch.planner.device_memory import Layout
from anybatch.planner.workload import STEP_BYTES, Workload, WorkPhase

# Gradients are sent in buckets of about this size; see engine/gradient_sum.py.
_BUCKET_BYTES = 25e6
# The share of the memory's bandwidth that an optimizer's kernels reach.
_STREAMING = 0.8
# Small all-reduces of a step besides the gradients: counting targets, and agreeing on losses and the gradient norm.
_AGREEMENTS = 2
# The floating-point work beyond the model's if activations are recomputed: one more forward pass.
_RECOMPUTED = 4 / 3


def step_time(
    workload: Workload, phase: WorkPhase, cluster: Cluster, num_devices: int, batch_size: int, layout: Layout
) -> dict[str, float]:
    """Predicts the parts of a step of `batch_size` examples over all devices, in seconds that computing does not hide.

    compute     n F / (peak * MFU), n the examples of the device that has most
    launches    micro-batches * kernels * least time of one
    all_reduce  what the last backward pass does not hide, at least its last bucket; under FSDP half as much again,
                and parameters gathered twice a micro-batch
    optimizer   bytes / memory bandwidth, and Muon's products / (peak * MFU); a shard's under FSDP
    norms       small all-reduces: two to agree on the step, one more for the packed norms of shards
    stragglers  jitter * (compute + launches) * E[max of D standard normals]
    input       reading and sending the next batch, if that takes longer than all the rest
    """
    a_device = math.ceil(batch_size / num_devices)
    micro_batches = math.ceil(a_device / layout.micro_batch_size)
    rate = cluster.flops(workload.family, workload.precision)
    compute = a_device * phase.cost.flops * (_RECOMPUTED if layout.checkpointing else 1.0) / rate
    launches = micro_batches * phase.cost.launches * cluster.launch_s
    moved_s = (
        STEP_BYTES[workload.optimizer] * workload.parameters / (cluster.accelerator.memory_bytes_per_s * _STREAMING)
    )
    parts = {
        "compute": compute,
        "launches": launches,
        "all_reduce": _messages(workload, cluster, num_devices, layout, micro_batches, compute / micro_batches),
        "optimizer": (moved_s + workload.optimizer_flops / rate) / (num_devices if layout.fsdp else 1),
        "norms": (_AGREEMENTS + int(layout.fsdp)) * all_reduce_s(cluster, num_devices, workload.num_tensors * 16),
        "stragglers": cluster.jitter * (compute + launches) * expected_slowest(num_devices),
    }
    reading = batch_size * phase.cost.input_bytes / cluster.nodes(num_devices) / cluster.host_bytes_per_s
    return {**parts, "input": max(0.0, reading - sum(parts.values()))}


def expected_slowest(count: int) -> float:
    """Returns the expected maximum of `count` standard normal draws, by Blom's approximation (to 5 %); 0 for one.

    Example:
        >>> round(expected_slowest(8), 2), round(expected_slowest(1024), 2)
        (1.43, 3.23)
    """
    return NormalDist().inv_cdf((count - 0.375) / (count + 0.25)) if count > 1 else 0.0


def _messages(
    workload: Workload,
    cluster: Cluster,
    num_devices: int,
    layout: Layout,
    micro_batches: int,
    micro_batch_s: float,
) -> float:
    """Returns the exposed seconds of gradients and, under FSDP, parameters."""
    if num_devices == 1:
        return 0.0
    gradient = workload.parameters * workload.gradient_bytes
    pieces = max(1, math.ceil(gradient / _BUCKET_BYTES))
    seconds = all_reduce_s(cluster, num_devices, gradient, pieces)
    if layout.fsdp:
        gathering = all_reduce_s(cluster, num_devices, workload.parameters * workload.value_bytes, pieces) / 2
        hidden = cluster.overlap * micro_batch_s
        each = 2 * gathering
        return max(each - hidden, each / pieces) * (micro_batches - 1) + max(
            each + seconds / 2 - hidden, (each + seconds / 2) / pieces
        )
    return max(seconds - cluster.overlap * 2 / 3 * micro_batch_s, seconds / pieces)


def all_reduce_s(cluster: Cluster, num_devices: int, num_bytes: float, num_messages: int = 1) -> float:
    """Returns the seconds to sum `num_bytes` over `num_devices`, sent in `num_messages` pieces.

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
    inside, between, nodes = cluster.inside, cluster.between, cluster.nodes(num_devices)
    if inside.topology == "torus":
        share = 2 * (num_devices - 1) / num_devices
        return share * num_bytes / inside.rate + num_messages * 4 * (math.sqrt(num_devices) - 1) * inside.latency_s
    local = min(num_devices, cluster.devices_a_node)
    total = 0.0
    if local > 1:
        total += 2 * (local - 1) / local * num_bytes / inside.rate + num_messages * 2 * (local - 1) * inside.latency_s
    if nodes > 1:
        part = num_bytes / local
        ring = 2 * (nodes - 1) / nodes * part / between.rate + num_messages * 2 * (nodes - 1) * between.latency_s
        tree = 2 * part / between.rate + num_messages * 2 * math.log2(nodes) * between.latency_s
        total += min(ring, tree)
    return total
