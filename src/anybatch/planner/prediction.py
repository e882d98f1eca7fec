"""Predicts how long a whole run takes, and what it costs."""

import math
from dataclasses import replace
from typing import Any

from anybatch.errors import InputError
from anybatch.planner.cluster import Cluster
from anybatch.planner.device_memory import Layout, choose_layout, memory, room
from anybatch.planner.examples import Fixed
from anybatch.planner.step_time import step_time
from anybatch.planner.workload import Workload, WorkPhase

# A checkpoint holds fp32 parameters and states; one rank writes it, or every rank writes a shard.
_CHECKPOINT_BYTES = 12


# In JSON, as `predict` returns it.
Prediction = dict[str, Any]


def predict(workload: Workload, cluster: Cluster, num_devices: int, batch_size: int) -> Prediction:
    """Predicts `workload` at a global batch of `batch_size` (its first phase's) on `num_devices` of `cluster`.

    Returns:
        devices, batch_size, num_examples, epochs, num_steps; total_s and its parts start_s, training_s, evaluation_s,
        checkpoint_s; cost in US dollars; device_hours; energy_kwh of the devices; and of each of the phases: title,
        batch_size, num_steps, layout, micro_batch_size, memory_bytes on a device, step_s and its step_parts_s.

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
    planned = [_phase(workload, phase, cluster, num_devices, batch_size, total) for phase in workload.phases]
    phases = [phase for phase, _ in planned]
    parts = {
        "start_s": workload.start_s,
        "training_s": sum(phase["num_steps"] * phase["step_s"] for phase in phases),
        "evaluation_s": _evaluation_s(workload, cluster, num_devices, batch_size, total, planned[-1][1]),
        "checkpoint_s": workload.num_checkpoints
        * workload.parameters
        * _CHECKPOINT_BYTES
        / cluster.storage_bytes_per_s,
    }
    device_hours = num_devices * sum(parts.values()) / 3600
    power = cluster.accelerator.power_w
    return {
        "devices": num_devices,
        "batch_size": batch_size,
        "num_examples": total,
        "epochs": None if workload.epoch_examples is None else total / workload.epoch_examples,
        "num_steps": sum(phase["num_steps"] for phase in phases),
        "total_s": sum(parts.values()),
        **parts,
        "cost": None if cluster.price is None else cluster.price * device_hours,
        "device_hours": device_hours,
        "energy_kwh": None if power is None else power * device_hours / 1000,
        "phases": phases,
    }


def _phase(
    workload: Workload, phase: WorkPhase, cluster: Cluster, num_devices: int, batch_size: int, total: float
) -> tuple[dict[str, Any], Layout]:
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
    parts = step_time(workload, phase, cluster, num_devices, batch, layout)
    return {
        "title": phase.title,
        "batch_size": batch,
        "num_steps": max(1, math.ceil(total * phase.share / batch - 1e-9)),
        "layout": layout.title(num_devices),
        "micro_batch_size": layout.micro_batch_size,
        "memory_bytes": memory(workload, phase, layout, num_devices),
        "step_s": sum(parts.values()),
        "step_parts_s": parts,
    }, layout


def _evaluation_s(
    workload: Workload, cluster: Cluster, num_devices: int, batch_size: int, total: float, layout: Layout
) -> float:
    """Returns the seconds of forward passes: a third of the FLOPs, in micro-batches like those of the last phase."""
    evaluation = workload.evaluation
    if evaluation is None:
        return 0.0
    count = max(1.0, total / (evaluation.every_examples + evaluation.every_batches * batch_size))
    phase = workload.phases[-1]
    forward, layout = replace(phase, cost=phase.cost.forward()), replace(layout, checkpointing=False)
    batch = max(num_devices, evaluation.num_examples)
    step = step_time(workload, forward, cluster, num_devices, batch, layout)
    return count * (step["compute"] + step["launches"] + step["stragglers"])
