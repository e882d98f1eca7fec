"""How long one step takes, part by part."""

import math
from dataclasses import dataclass
from statistics import NormalDist

from anybatch.planner.cluster import Cluster
from anybatch.planner.collectives import all_reduce_s
from anybatch.planner.memory import Layout
from anybatch.planner.workload import OPTIMIZER_BYTES, Workload, WorkPhase

# PyTorch's DDP sends gradients in buckets of this size.
_BUCKET_BYTES = 25e6
# Share of the memory's bandwidth that an optimizer's kernels reach.
_STREAMING = 0.8
# Small all-reduces of a step besides the gradients: counting targets, and agreeing on losses and the gradient norm.
_AGREEMENTS = 2
# Floating-point work beyond the model's own where activations are recomputed: one more forward pass.
_RECOMPUTED = 4 / 3


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step; what is hidden behind computing is not in it."""

    compute: float
    kernels: float
    all_reduce: float
    optimizer: float
    norms: float
    stragglers: float
    input: float

    @property
    def total(self) -> float:
        return (
            self.compute + self.kernels + self.all_reduce + self.optimizer + self.norms + self.stragglers + self.input
        )


def step_time(
    workload: Workload, phase: WorkPhase, cluster: Cluster, num_devices: int, batch_size: int, layout: Layout
) -> StepTime:
    """One step of `batch_size` examples over all devices.

    compute     n F / (peak * achieved share), n the examples of the device that has most
    kernels     micro-batches * kernels * least time of one
    all-reduce  what the last backward pass does not hide, at least its last bucket; under FSDP half as much again,
                and parameters gathered twice a micro-batch
    optimizer   bytes / memory bandwidth; a shard's under FSDP
    norms       small all-reduces: two to agree on the step, one more for the packed norms of shards
    stragglers  jitter * (compute + kernels) * E[max of D standard normals]
    input       reading and sending the next batch, where that takes longer than all the rest
    """
    a_device = math.ceil(batch_size / num_devices)
    micro_batches = math.ceil(a_device / layout.micro_batch_size)
    accelerator = cluster.accelerator
    flops = phase.flops * (_RECOMPUTED if layout.checkpointing else 1.0)
    compute = a_device * flops / accelerator.flops(workload.family, workload.precision)
    kernels = micro_batches * workload.num_kernels * accelerator.kernel_s
    sharded = num_devices if layout.fsdp else 1
    optimizer = (
        OPTIMIZER_BYTES[workload.optimizer]
        * workload.parameters
        / sharded
        / (accelerator.memory_bytes_per_s * _STREAMING)
    )
    norms = (_AGREEMENTS + int(layout.fsdp)) * _all_reduce(cluster, num_devices, workload.num_tensors * 16)
    stragglers = cluster.jitter * (compute + kernels) * expected_slowest(num_devices)
    messages = _messages(workload, cluster, num_devices, layout, micro_batches, compute / micro_batches)
    spent = compute + kernels + messages + optimizer + norms + stragglers
    reading = batch_size * phase.input_bytes / cluster.nodes(num_devices) / cluster.host_bytes_per_s
    return StepTime(compute, kernels, messages, optimizer, norms, stragglers, max(0.0, reading - spent))


def expected_slowest(count: int) -> float:
    """The expected greatest of `count` standard normal draws, by Blom's approximation (to 5 %); 0 for one.

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
    """Exposed seconds of gradients and, under FSDP, parameters."""
    if num_devices == 1:
        return 0.0
    gradient = workload.parameters * workload.gradient_bytes
    pieces = max(1, math.ceil(gradient / _BUCKET_BYTES))
    seconds = _all_reduce(cluster, num_devices, gradient, pieces)
    if layout.fsdp:
        value_bytes = 2 if workload.precision == "bf16" else 4
        gathering = _all_reduce(cluster, num_devices, workload.parameters * value_bytes, pieces) / 2
        hidden = cluster.overlap * micro_batch_s
        each = 2 * gathering
        return max(each - hidden, each / pieces) * (micro_batches - 1) + max(
            each + seconds / 2 - hidden, (each + seconds / 2) / pieces
        )
    return max(seconds - cluster.overlap * 2 / 3 * micro_batch_s, seconds / pieces)


def _all_reduce(cluster: Cluster, num_devices: int, num_bytes: float, num_messages: int = 1) -> float:
    return all_reduce_s(num_bytes, num_devices, cluster.devices_a_node, cluster.inside, cluster.between, num_messages)
