"""What `anybatch plan` does."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from anybatch.errors import InputError
from anybatch.files import read_object
from anybatch.planner.calibrate import calibrate
from anybatch.planner.clusters import find_cluster
from anybatch.planner.figure import draw
from anybatch.planner.from_recipe import find_workload, with_critical_batch
from anybatch.planner.plan import make_plan, parse_duration
from anybatch.planner.tell import to_json, to_text


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
    as_json: bool = False,
) -> str:
    """The plan, as text or as JSON; the picture is written to `plot`."""
    workload = find_workload(name, assignments or [])
    cluster = find_cluster(cluster_name)
    if optimizer is not None:
        workload = workload.with_optimizer(optimizer)
    if advice is not None:
        found = read_object(advice)
        workload = with_critical_batch(workload, *_critical_batch(advice, found))
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
    settings = tuple(assignments or [])
    if optimizer is not None and workload.recipe is not None:
        settings = (*settings, f"optimizer.name={optimizer}")
    if as_json:
        return json.dumps(to_json(made, calibration, settings), indent=1)
    return to_text(made, calibration, settings)


def _critical_batch(path: Path, found: dict[str, Any]) -> tuple[float, int]:
    """B_crit and the batch whose examples are known, as `anybatch advise --json` writes them."""
    value, reference = found.get("critical_batch"), found.get("reference_batch_size")
    if not isinstance(value, int | float) or not isinstance(reference, int):
        raise InputError(
            f"{path}: it has no critical_batch and reference_batch_size; write it with anybatch advise --json"
        )
    return float(value), reference
