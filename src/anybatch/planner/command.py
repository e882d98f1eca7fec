"""The command `anybatch plan`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from anybatch.errors import InputError
from anybatch.files import read_object
from anybatch.names import nearest
from anybatch.planner.cluster import Cluster
from anybatch.planner.clusters import find_cluster
from anybatch.planner.measure import calibrate
from anybatch.planner.plan import make_plan, parse_duration
from anybatch.planner.published import PUBLISHED
from anybatch.planner.tell import draw, to_json
from anybatch.planner.workload import Workload, with_critical_batch, workload_of
from anybatch.recipes import RECIPES, change, find_recipe
from anybatch.recipes.change import as_another_optimizer


def plan(
    name: str,
    cluster_name: str,
    *,
    devices: int | None = None,
    batch_size: int | None = None,
    deadline: str | None = None,
    budget: float | None = None,
    price: float | None = None,
    optimizer: str | None = None,
    critical_batch: float | None = None,
    advice: Path | None = None,
    calibration_run: Path | None = None,
    plot: Path | None = None,
    assignments: list[str] | None = None,
) -> dict[str, Any]:
    """Returns the plan, as JSON types; writes the picture to `plot`."""
    cluster = find_cluster(cluster_name)
    settings = tuple(assignments or [])
    if optimizer is not None and name in RECIPES:
        settings = (*settings, *as_another_optimizer(optimizer))
    workload = find_workload(name, settings, cluster)
    if optimizer is not None and workload.recipe is None:
        workload = workload.with_optimizer(optimizer)
    if advice is not None:
        workload = with_critical_batch(workload, *_critical_batch(advice))
    if critical_batch is not None:
        workload = with_critical_batch(workload, critical_batch)
    if price is not None:
        if not price >= 0:
            raise InputError(f"--price {price}: must be at least 0")
        cluster = replace(cluster, price=price, price_source="given")
    if budget is not None and not budget > 0:
        raise InputError(f"--budget {budget:g}: must be above 0")
    calibration = None
    if calibration_run is not None:
        cluster, calibration = calibrate(cluster, calibration_run)
    made = make_plan(
        workload,
        cluster,
        num_devices=devices,
        batch_size=batch_size,
        deadline_s=None if deadline is None else parse_duration(deadline),
        budget=budget,
    )
    if plot is not None:
        draw(made, plot)
    return to_json(made, calibration, settings)


def find_workload(name: str, assignments: tuple[str, ...], cluster: Cluster) -> Workload:
    """Finds the published run or the recipe called `name`, with fields set as by `anybatch train --set`.

    Raises:
        InputError: there is neither; or fields of a published run are set.
    """
    if name in PUBLISHED:
        if assignments:
            raise InputError(f"--set {assignments[0]}: {name} is a published run, not a recipe; its fields are fixed")
        return PUBLISHED[name](cluster)
    if name not in RECIPES:
        near = nearest(name, [*RECIPES, *PUBLISHED])
        raise InputError(f"neither a recipe nor a published run is called {name!r}; nearest: {near}")
    return workload_of(change(find_recipe(name), assignments), cluster)


def _critical_batch(path: Path) -> tuple[float, int]:
    """Returns B_crit and the batch whose examples are known, as `anybatch advise --json` writes them."""
    found = read_object(path)
    value, reference = found.get("critical_batch"), found.get("reference_batch_size")
    if not isinstance(value, int | float) or not isinstance(reference, int):
        raise InputError(
            f"{path}: it has no critical_batch and reference_batch_size; write it with anybatch advise --json"
        )
    return float(value), reference
