"""The memory of one device, by layout and micro-batch: what fits."""

from dataclasses import dataclass, replace

from anybatch.planner.cluster import Cluster
from anybatch.planner.workload import STATE_BYTES, Workload, WorkPhase

# CUDA's context, the allocator's slack, the messages' buffers.
_USABLE = 0.9
_LEAST_OVERHEAD_BYTES = 1e9


@dataclass(frozen=True)
class Layout:
    """A model's layout on its devices: whole copies or shards, activations kept or recomputed, and the cut."""

    fsdp: bool = False
    checkpointing: bool = False
    micro_batch_size: int = 1

    def title(self, num_devices: int) -> str:
        copies = "FSDP" if self.fsdp else "DDP" if num_devices > 1 else "one device"
        return copies + (" + checkpointing" if self.checkpointing else "")


def memory(workload: Workload, phase: WorkPhase, layout: Layout, num_devices: int) -> float:
    """Returns the bytes on one device: fp32 parameters, gradients and states, a 16-bit copy for computing, activations.

    FSDP shards all of them, except what it gathers: the largest unit, twice, since the next arrives while one computes.
    """
    kept = activation_bytes(phase, layout) * layout.micro_batch_size
    if layout.fsdp:
        kept += 2 * workload.largest_unit * workload.value_bytes
    copy_bytes = 2 if workload.value_bytes == 2 and not layout.fsdp else 0
    a_parameter = 4 + copy_bytes + 4 + STATE_BYTES[workload.optimizer]
    return workload.parameters * a_parameter / (num_devices if layout.fsdp else 1) + kept


def activation_bytes(phase: WorkPhase, layout: Layout) -> float:
    """Returns the bytes that an example keeps for the backward pass."""
    return phase.cost.checkpointed_bytes if layout.checkpointing else phase.cost.activation_bytes


def room(cluster: Cluster) -> float:
    """Returns the bytes of a device that a run can use."""
    total = cluster.accelerator.memory_bytes
    return min(total * _USABLE, total - _LEAST_OVERHEAD_BYTES)


def choose_layout(
    workload: Workload, phase: WorkPhase, cluster: Cluster, num_devices: int, most_a_device: int
) -> Layout | None:
    """Returns the simplest layout that fits, with the largest micro-batch up to `most_a_device`, or None.

    It prefers whole copies to shards, and kept activations to recomputed ones. A device's share of the batch is cut
    into equal parts, or into groups that the model processes together.
    """
    if workload.group_size is not None:
        most_a_device = min(most_a_device, workload.group_size)
    for fsdp in (False, True) if num_devices > 1 else (False,):
        for checkpointing in (False, True):
            layout = Layout(fsdp, checkpointing)
            fixed = memory(workload, phase, replace(layout, micro_batch_size=0), num_devices)
            largest = int((room(cluster) - fixed) // activation_bytes(phase, layout))
            if largest >= (1 if workload.group_size is None else most_a_device):
                parts = -(-most_a_device // min(largest, most_a_device))
                return replace(layout, micro_batch_size=-(-most_a_device // parts))
    return None
