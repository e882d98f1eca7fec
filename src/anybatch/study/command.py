"""The command `anybatch study`: declares, shows the plan, or runs what is left and writes study.json and the page."""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from anybatch.comparison.findings import find
from anybatch.comparison.grid import Comparison
from anybatch.engine import Progress
from anybatch.environment import describe_environment
from anybatch.errors import InputError
from anybatch.files import read_object, write_json
from anybatch.recipes.optimizers import tuned_moments
from anybatch.recipes.tasks import TASKS
from anybatch.study.catalogue import declare
from anybatch.study.declaration import LR, Study, setup

_WARMUP = "optimizer.warmup_ratio"


def declared(name: str, **options: Any) -> Callable[[], Study]:
    """Returns the maker of a study, which workers in other processes call, too; wrong options fail at once."""
    make = partial(declare, name, options)
    make()
    return make


def plan(study: Study) -> dict[str, Any]:
    """Returns what a study would run: its setting, a row for every optimizer at every batch, and the total."""
    rows = []
    examples: int | None = 0
    trials = study.trials
    for batch, entrant in itertools.product(study.batch_sizes, study.entrants):
        cell = [trial for trial in trials if trial.cell == (entrant.name, batch)]
        tuning = [trial.settings or {} for trial in cell if trial.part == "tuning"]
        scaled = cell[0].scaled({})
        rates = _span(sorted(one[LR] for one in tuning if LR in one), ".4g")
        num_steps = scaled[0].num_steps if scaled else 0
        warmups = _span(sorted(round(one[_WARMUP] * num_steps) for one in tuning if scaled and _WARMUP in one), ",")
        rows.append(
            {
                "optimizer": entrant.name,
                "batch": batch,
                "rate": rates or (scaled and float(f"{scaled[0].lr:.4g}")),
                "warmup_steps": warmups or (scaled and scaled[0].warmup_steps),
                "steps": scaled and sum(phase.num_steps for phase in scaled),
                "tuning_runs": len(tuning),
                "reported_runs": len(cell) - len(tuning),
            }
        )
        if scaled is None or examples is None:
            examples = None
        else:
            examples += len(cell) * sum(phase.num_steps * phase.batch_size for phase in scaled)
    return {
        "study": study.name,
        "question": study.question,
        "setting": setup(study),
        "metric": study.metric_name,
        "target": study.target,
        "open": _open(study),
        "runs": rows,
        "trials": len(trials),
        "examples": examples,
    }


def _span(values: Sequence[float], form: str) -> str | None:
    return f"{values[0]:{form}} to {values[-1]:{form}}" if values else None


def _open(study: Study) -> list[str]:
    """Returns what the first contender's recipe leaves open: its data, and what its source does not say."""
    recipe = study.entrants[0].recipe
    missing = recipe.data.stand_in if study.run is None else None
    data = (
        [] if missing is None else [f"data.path is not set: the study needs --set data.path=FOLDER for {recipe.name}."]
    )
    return [*data, *(f"Inferred, not in the source: {each}." for each in recipe.inferred)]


def finish_study(
    make: Callable[[], Study], out: Path, progress: Progress, *, storage: str | None, num_workers: int, heartbeat_s: int
) -> tuple[Comparison, dict[str, Any]]:
    """Runs the rest of the study; returns its comparison, and what is written to `out`/study.json."""
    from anybatch.study.results import as_json, compare
    from anybatch.study.worker import run_study

    study = make()
    check(study)
    results = run_study(make, out, progress, storage=storage, num_workers=num_workers, heartbeat_s=heartbeat_s)
    comparison = compare(study, results, out)
    values = as_json(comparison, find(comparison))
    made = _earlier(out / "study.json", values) or describe_environment()
    values["environment"] = made
    write_json(out / "study.json", values)
    return replace(comparison, environment=made), values


def check(study: Study) -> None:
    """Raises InputError for a fault that is known beforehand: no such optimizer, metric or data; a batch too large."""
    if study.run is not None:
        return
    for entrant in study.entrants:
        recipe = entrant.recipe
        try:
            tuned_moments(recipe.optimizer, recipe.reference)
        except InputError as error:
            raise InputError(f"{entrant.name}: {error}") from None
        known = ("loss", *TASKS[recipe.task].accuracies)
        if study.metric not in known:
            raise InputError(f"metric = {study.metric!r}: {recipe.name} measures {', '.join(known)}")
        if recipe.data.path is not None and not Path(recipe.data.path).exists():
            raise InputError(f"{entrant.name}: data.path = {recipe.data.path}: no such file or folder")
        if (missing := recipe.data.stand_in) is not None:
            raise InputError(
                f"{study.name}: data.path is not set, and {recipe.name} is for data of your own; "
                f"--set data.path=FOLDER (a dry run takes {missing})"
            )
    for trial in {trial.cell: trial for trial in study.trials}.values():
        trial.scaled(trial.settings or {})


def _earlier(path: Path, now: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the environment of the same trials, if this command has only written their page again."""
    try:
        found = read_object(path)
    except InputError:  # none yet, or one that was cut short
        return None
    environment = found.get("environment")
    return environment if found.get("trials") == json.loads(json.dumps(now["trials"])) else None
