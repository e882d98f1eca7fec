"""A study's results as a comparison, and the content of study.json."""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from anybatch.comparison.cell import Cell, Metric
from anybatch.comparison.families import held_to
from anybatch.comparison.findings import Findings
from anybatch.comparison.folders import read_run
from anybatch.comparison.grid import Comparison, Scaling, Series
from anybatch.comparison.rows import Point, Reference, Row
from anybatch.comparison.statistics import CriticalBatch, Interval
from anybatch.numbers import null_for_nonfinite
from anybatch.study.declaration import LR, Entrant, Study, Trial, setup
from anybatch.study.execution import run_folder
from anybatch.study.trial_queue import Result
from anybatch.study.worker import chosen_settings

# Fields that a run folder on this machine holds, and the storage does not.
_FROM_FOLDER = (
    "path", "environment", "evals", "trains", "health", "noise", "parameters", "context_free_loss", "wall_s",
    "examples_per_s", "skipped_steps", "final", "sample",
)  # fmt: skip
# What study.json says of a cell and of a trial in the words of this package.
_OF_CELL = (
    "factor", "gaps", "kept", "num_steps", "settings", "at_edge", "num_examples", "diverged", "still", "failed",
)  # fmt: skip


def compare(study: Study, results: Mapping[str, Result], out: Path | None = None) -> Comparison:
    """Returns the declared trials as rows, whoever ran them; run folders in `out` add what the storage lacks."""
    # A loss or an accuracy of a recipe has bounds; the metric of a user's `run` may be anything.
    least, most = (0.0, 1.0 if study.higher_is_better else math.inf) if study.run is None else (-math.inf, math.inf)
    metric = Metric(study.metric_name, study.higher_is_better, least, most, study.target)
    rows = {trial.key: _row(study, trial, results, out) for trial in study.trials}
    return Comparison(
        series=[_series(study, entrant, metric, rows) for entrant in study.entrants],
        rows=list(rows.values()),
        metric=metric,
        declaration=study.declaration(),
        question=study.question,
        setting=setup(study),
        parts=study.run is None,
    )


def _series(study: Study, entrant: Entrant, metric: Metric, rows: Mapping[str, Row]) -> Series:
    cells = []
    for batch in study.batch_sizes:
        mine = [rows[trial.key] for trial in study.trials if trial.cell == (entrant.name, batch)]
        tuning, reported = ([row for row in mine if row.part == part] for part in ("tuning", "reported"))
        cells.append(Cell(batch, reported, metric, tuning=tuning))
    untuned = study.protocol == "untuned"
    reference = entrant.recipe.reference.batch_size if untuned else min(study.batch_sizes)
    return Series(entrant.name.lower(), entrant.name, held_to(cells, reference), reference)


def _row(study: Study, trial: Trial, results: Mapping[str, Result], out: Path | None) -> Row:
    result = results.get(trial.key)
    outcome = result.outcome if result else None
    settings = result.settings if result and result.settings else chosen_settings(study, trial, results) or {}
    scaled, recipe = trial.scaled(settings), trial.recipe(settings)
    tuned, curve = recipe.reference, outcome.curve if outcome else ()
    row = Row(
        name=trial.key,
        state="not run" if result is None else "failed" if outcome is None else "finished",
        optimizer=recipe.optimizer.name,
        batch=trial.batch_size,
        seed=trial.seed,
        score=outcome.final if outcome else None,
        message=result.error if result else "",
        task=recipe.task,
        recipe_name=recipe.name,
        entrant=trial.entrant.name,
        part=trial.part,
        settings=settings,
        recipe=recipe.model_dump(mode="json"),
        reference=Reference(tuned.batch_size, tuned.lr) if study.protocol == "untuned" else None,
        rule=tuned.rule,
        lr=settings.get(LR, scaled[0].lr if scaled else None),
        warmup_steps=scaled[0].warmup_steps if scaled else None,
        num_steps=outcome.num_steps if outcome else None,
        num_examples=curve[-1][1] if curve else None,
        curve=curve,
        evals=[Point(step, n, None, y) if study.higher_is_better else Point(step, n, y, None) for step, n, y in curve],
        ratios=outcome.ratios if outcome else (),
    )
    folder = None if out is None or study.run is not None else run_folder(out, trial)
    if outcome is None or folder is None or not (folder / "recipe.json").is_file():
        return row
    seen = read_run(folder, trial.key)
    return replace(row, **{name: getattr(seen, name) for name in _FROM_FOLDER})


def as_json(comparison: Comparison, findings: Findings) -> dict[str, Any]:
    """Returns the content of study.json; it depends only on the declared trials, not on who ran them when."""
    return {
        "kind": "study",
        "declaration": comparison.declaration,
        "question": comparison.question,
        "metric_name": comparison.metric.name,
        "parts": comparison.parts,
        "higher_is_better": comparison.metric.higher,
        "cells": [_cell(one, cell) for batch in comparison.batches for one, cell in comparison.at(batch)],
        "differences": [
            {"batch_size": each.batch, "first": each.first, "second": each.second,
             "difference": _interval(each.interval), "p_value": each.p_value, "num_seeds": each.num_seeds}
            for each in comparison.differences
        ],
        "scaling": [_scaling(each) for each in comparison.scaling],
        "trials": [_trial(row) for row in comparison.rows],
        "setting": comparison.setting,
        "headline": findings.headline,
        "findings": findings.points,
        "environment": comparison.environment,
    }  # fmt: skip


def _cell(one: Series, cell: Cell) -> dict[str, Any]:
    tuned_to = [{**run.settings, "seed": run.seed, "final": run.score} for run in cell.tuning if run.state != "not run"]
    return {
        "entrant": one.label,
        "batch_size": cell.batch,
        **{name: getattr(cell, name) for name in _OF_CELL},
        "lr": cell.runs[0].lr,
        "warmup_steps": cell.runs[0].warmup_steps,
        "finals": {str(seed): score for seed, score in cell.by_seed.items()},
        "final": _interval(cell.final),
        "num_seeds": len(cell.runs),
        "num_tuning_trials": len(cell.tuning),
        "tuning_diverged": sum(run.diverged for run in cell.tuning),
        "steps_to_target": {str(seed): steps for seed, (steps, _) in cell.reached.items()},
        "examples_to_target": {str(seed): examples for seed, (_, examples) in cell.reached.items()},
        "steps": _interval(cell.steps),
        "sensitivity": tuned_to,
    }


def _interval(value: Interval | CriticalBatch | None) -> Any:
    """Returns JSON, which has no infinity: the mean of a critical batch is None if the examples do not grow."""
    return None if value is None else null_for_nonfinite(asdict(value))


def _scaling(found: Scaling) -> dict[str, Any]:
    missed = [
        {"batch_size": cell.batch, "reached": len(cell.reached), "of": len(cell.runs),
         "num_examples": cell.num_examples}
        for cell in found.missed
    ]  # fmt: skip
    return {
        "entrant": found.entrant,
        "points": found.points,
        "batches_fitted": [cell.batch for cell in found.fitted],
        "missed": missed,
        "fit": _interval(found.fit),
        "bound": _interval(found.bound),
    }


def _trial(row: Row) -> dict[str, Any]:
    return {
        "key": row.name,
        "entrant": row.entrant,
        "batch_size": row.batch,
        "part": row.part,
        "seed": row.seed,
        "settings": row.settings,
        "state": row.outcome,
        "error": row.message,
        "final": row.score,
        "num_steps": row.num_steps,
        "curve": row.curve if row.part == "reported" else (),
        "ratios": row.ratios,
    }
