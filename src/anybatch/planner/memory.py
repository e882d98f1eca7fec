"""What fits: the memory of one device, by layout and micro-batch."""

from dataclasses import dataclass, replace

from anybatch.planner.cluster import Cluster
from anybatch.planner.workload import STATE_BYTES, Workload, WorkPhase

# CUDA's context, the allocator's slack, the messages' buffers.
_USABLE = 0.9
_LEAST_OVERHEAD_BYTES = 1e9


@dataclass(frozen=True)
class Layout:
    """How a model lies on its devices: whole on each or sharded, activations kept or recomputed, and the cut."""

    fsdp: bool = False
    checkpointing: bool = False
    micro_batch_size: int = 1

    def title(self, num_devices: int) -> str:
        copies = "FSDP" if self.fsdp else "DDP" if num_devices > 1 else "one device"
        return copies + (" + checkpointing" if self.checkpointing else "")


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    parameters: float
    gradients: float
    states: float
    activations: float

    @property
    def total(self) -> float:
        return self.parameters + self.gradients + self.states + self.activations


def memory(workload: Workload, phase: WorkPhase, layout: Layout, num_devices: int) -> Memory:
    """fp32 parameters, gradients and states, and a 16-bit copy to compute with; FSDP shards all but what it gathers.

    What FSDP gathers is the largest layer, twice: the next one comes while one computes.
    """
    sharded = num_devices if layout.fsdp else 1
    copy_bytes = 2 if workload.precision == "bf16" else 0
    gathered = 2 * workload.largest_layer * (copy_bytes or 4) if layout.fsdp else 0
    each = phase.checkpointed_bytes if layout.checkpointing else phase.activation_bytes
    return Memory(
        parameters=workload.parameters * (4 + (0 if layout.fsdp else copy_bytes)) / sharded + gathered,
        gradients=workload.parameters * 4 / sharded,
        states=workload.parameters * STATE_BYTES[workload.optimizer] / sharded,
        activations=each * layout.micro_batch_size,
    )


def room(cluster: Cluster) -> float:
    """Bytes of a device that a run can use."""
    total = cluster.accelerator.memory_bytes
    return min(total * _USABLE, total - _LEAST_OVERHEAD_BYTES)


def choose_layout(
    workload: Workload, phase: WorkPhase, cluster: Cluster, num_devices: int, most_a_device: int
) -> Layout | None:
    """The plainest layout that fits, with the largest micro-batch of at most `most_a_device`; None where none does.

    Plain copies before shards, kept activations before recomputed ones. The share of a device is cut into equal parts.
    """
    for fsdp in (False, True) if num_devices > 1 else (False,):
        for checkpointing in (False, True):
            layout = Layout(fsdp, checkpointing)
            fixed = memory(workload, phase, replace(layout, micro_batch_size=0), num_devices).total
            each = phase.checkpointed_bytes if checkpointing else phase.activation_bytes
            largest = int((room(cluster) - fixed) // each)
            if largest >= 1:
                parts = -(-most_a_device // min(largest, most_a_device))
                return replace(layout, micro_batch_size=-(-most_a_device // parts))
    return None
