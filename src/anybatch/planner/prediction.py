"""Predicts how long a whole run takes, and what it costs."""

import math
from dataclasses import dataclass, replace

from anybatch.errors import InputError
from anybatch.planner.cluster import Cluster
from anybatch.planner.device_memory import Layout, choose_layout, memory, room
from anybatch.planner.examples import Fixed
from anybatch.planner.step_time import StepTime, step_time
from anybatch.planner.workload import Workload, WorkPhase

# A checkpoint holds fp32 parameters and states; one rank writes it, or every rank writes a shard.
_CHECKPOINT_BYTES = 12


@dataclass(frozen=True)
class PhasePrediction:
    """One phase of a run: `step` in seconds, `memory_bytes` on a device."""

    title: str
    batch_size: int
    num_steps: int
    layout: Layout
    step: StepTime
    memory_bytes: float


@dataclass(frozen=True)
class Prediction:
    """A whole run on `num_devices`; seconds, US dollars, kilowatt-hours of the devices."""

    num_devices: int
    batch_size: int
    num_examples: float
    num_steps: int
    phases: tuple[PhasePrediction, ...]
    start_s: float
    training_s: float
    evaluation_s: float
    checkpoint_s: float
    cost: float | None
    energy_kwh: float | None

    @property
    def total_s(self) -> float:
        return self.start_s + self.training_s + self.evaluation_s + self.checkpoint_s

    @property
    def device_hours(self) -> float:
        return self.num_devices * self.total_s / 3600


def predict(workload: Workload, cluster: Cluster, num_devices: int, batch_size: int) -> Prediction:
    """Predicts `workload` at a global batch of `batch_size` (its first phase's) on `num_devices` of `cluster`.

    Raises:
        InputError: a number of devices that the cluster does not have, a batch smaller than the devices or above the
            workload's rule, or a model that fits in no layout.
    """
    cluster.check_devices(num_devices)
    if batch_size < 1:
        raise InputError(f"--batch-size {batch_size}: must be at least 1")
    examples = workload.examples
    if isinstance(examples, Fixed) and examples.largest_batch and batch_size > examples.largest_batch:
        raise InputError(
            f"--batch-size {batch_size}: {workload.name} allows at most {examples.largest_batch}: {examples.why}"
        )
    total = examples.at(batch_size)
    phases = tuple(_phase(workload, phase, cluster, num_devices, batch_size, total) for phase in workload.phases)
    training_s = sum(phase.num_steps * phase.step.total for phase in phases)
    start_s, evaluation_s = workload.start_s, _evaluation_s(workload, cluster, num_devices, batch_size, total, phases)
    checkpoint_s = workload.num_checkpoints * workload.parameters * _CHECKPOINT_BYTES / cluster.storage_bytes_per_s
    hours = (start_s + training_s + evaluation_s + checkpoint_s) / 3600
    power = cluster.accelerator.power_w
    return Prediction(
        num_devices=num_devices,
        batch_size=batch_size,
        num_examples=total,
        num_steps=sum(phase.num_steps for phase in phases),
        phases=phases,
        start_s=start_s,
        training_s=training_s,
        evaluation_s=evaluation_s,
        checkpoint_s=checkpoint_s,
        cost=None if cluster.price is None else cluster.price * num_devices * hours,
        energy_kwh=None if power is None else power * num_devices * hours / 1000,
    )


def _phase(
    workload: Workload, phase: WorkPhase, cluster: Cluster, num_devices: int, batch_size: int, total: float
) -> PhasePrediction:
    batch = max(1, round(batch_size * phase.batch_ratio))
    if batch < num_devices:
        which = "" if len(workload.phases) == 1 else f" in the phase {phase.title!r}"
        raise InputError(
            f"a batch of {batch}{which} on {num_devices} devices: some would have no example; give fewer devices or a "
            f"larger batch"
        )
    layout = choose_layout(workload, phase, cluster, num_devices, math.ceil(batch / num_devices))
    if layout is None:
        least = min(
            memory(workload, phase, Layout(fsdp, checkpointing=True), num_devices) for fsdp in {False, num_devices > 1}
        )
        raise InputError(
            f"{workload.name} does not fit on {num_devices} x {cluster.accelerator.name}: one example a device needs "
            f"{least / 1e9:.1f} GB, with everything recomputed and sharded, and {room(cluster) / 1e9:.1f} GB are "
            f"there; give more devices or larger ones"
        )
    return PhasePrediction(
        title=phase.title,
        batch_size=batch,
        num_steps=max(1, math.ceil(total * phase.share / batch - 1e-9)),
        layout=layout,
        step=step_time(workload, phase, cluster, num_devices, batch, layout),
        memory_bytes=memory(workload, phase, layout, num_devices),
    )


def _evaluation_s(
    workload: Workload,
    cluster: Cluster,
    num_devices: int,
    batch_size: int,
    total: float,
    phases: tuple[PhasePrediction, ...],
) -> float:
    """Returns the seconds of forward passes: a third of the FLOPs, in micro-batches like those of training."""
    evaluation = workload.evaluation
    if evaluation is None:
        return 0.0
    count = max(1.0, total / (evaluation.every_examples + evaluation.every_batches * batch_size))
    phase, planned = workload.phases[-1], phases[-1]
    layout = replace(planned.layout, checkpointing=False)
    batch = max(num_devices, evaluation.num_examples)
    forward = replace(phase, cost=phase.cost.forward())
    step = step_time(workload, forward, cluster, num_devices, batch, layout)
    return count * (step.compute + step.launches + step.stragglers)
