"""One short run on real hardware in place of an assumption: the share of the peak that its steps reached."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from anybatch.errors import InputError
from anybatch.planner.accelerators import Achieved
from anybatch.planner.cluster import Cluster
from anybatch.planner.from_recipe import workload_of
from anybatch.planner.memory import Layout
from anybatch.planner.step_time import step_time
from anybatch.recipes import from_json
from anybatch.runs import open_run

# The first steps load libraries, compile and fill caches.
_WARMING_UP = 3
_FEWEST_STEPS = 5


@dataclass(frozen=True)
class Calibration:
    """What a run showed: `step_s` is the median of its steps; `share` replaces `before` in the cluster."""

    run: str
    num_steps: int
    step_s: float
    share: float
    before: float


def calibrate(cluster: Cluster, folder: Path) -> tuple[Cluster, Calibration]:
    """`cluster` with the share of its peak that makes the planned step of the run in `folder` as long as it was.

    Raises:
        InputError: not a run that can be planned, too few steps, other hardware, or steps too short for the model.
    """
    run = open_run(folder)
    workload = workload_of(from_json(run.recipe()))
    events = run.metrics("train")
    # The first phase alone: all its steps have one batch and one length of examples.
    steps = [event["step_s"] for event in events if event.get("phase", 0) == 0 and "step_s" in event]
    if len(steps) < _WARMING_UP + _FEWEST_STEPS:
        raise InputError(f"{folder}: {len(steps)} steps: calibration needs at least {_WARMING_UP + _FEWEST_STEPS}")
    step_s = median(steps[_WARMING_UP:])
    start = next(iter(run.metrics("start")), {})
    _check_hardware(folder, cluster, start)
    num_devices = int(start.get("ranks", 1))
    layout = Layout(
        fsdp=start.get("parallel") == "fsdp",
        micro_batch_size=int(next(iter(start.get("micro_batch_sizes", [])), 0)) or _micro_batch_size(run.recipe()),
    )

    def planned_s(share: float) -> float:
        changed = with_share(cluster, workload.family, Achieved(share, ""))
        return step_time(workload, workload.phases[0], changed, num_devices, workload.batch_size, layout).total

    if planned_s(1.0) > step_s:
        raise InputError(
            f"{folder}: its steps took {step_s:.4g} s, and {planned_s(1.0):.4g} s is the least that {cluster.name} "
            f"could; it ran on other hardware"
        )
    low, high = 1e-6, 1.0
    while high / low > 1 + 1e-9:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if planned_s(middle) > step_s else (low, middle)
    before = cluster.accelerator.achieved[workload.family].share
    source = f"calibrated by {folder}"
    changed = with_share(cluster, workload.family, Achieved(high, source))
    return changed, Calibration(str(folder), len(steps), step_s, high, before)


def with_share(cluster: Cluster, family: str, achieved: Achieved) -> Cluster:
    """`cluster` with another achieved share for `family`."""
    accelerator = cluster.accelerator
    return replace(
        cluster,
        accelerator=replace(accelerator, achieved={**accelerator.achieved, family: achieved}),  # type: ignore[dict-item]
    )


def _check_hardware(folder: Path, cluster: Cluster, start: Mapping[str, Any]) -> None:
    device = start.get("device", "cpu")
    if device == "cpu" and cluster.name != "this-machine":
        raise InputError(f"{folder}: the run was computed on a CPU and says nothing of {cluster.name}")


def _micro_batch_size(recipe: Mapping[str, Any]) -> int:
    size = recipe["engine"]["micro_batch_size"]
    return min(size, recipe["phases"][0]["batch_size"]) if isinstance(size, int) else 32
