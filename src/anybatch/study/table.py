"""From a study's results to its table: means and intervals, paired differences, steps to target, critical batches."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from anybatch.study.declaration import LR, Outcome, Study, Trial
from anybatch.study.statistics import FEWEST_FOR_P_VALUES, fit_critical_batch, mean_interval, paired_p_value
from anybatch.study.trial_queue import Result
from anybatch.study.worker import chosen_settings

# A run that ends this near to the untrained model, as a share of where that stood, has learned nothing.
_STILL = 0.02


def tabulate(study: Study, results: Mapping[str, Result]) -> dict[str, Any]:
    """Everything that the report shows, as JSON; it depends on the declared trials alone, not on who ran them when."""
    cells = [_cell(study, entrant.name, batch, results) for batch in study.batch_sizes for entrant in study.entrants]
    return {
        "kind": "study",
        "declaration": study.declaration(),
        "question": study.question,
        "metric_name": study.metric_name,
        "parts": study.run is None,
        "higher_is_better": study.higher_is_better,
        "cells": cells,
        "differences": _differences(study, cells),
        "scaling": [_scaling(entrant.name, cells) for entrant in study.entrants] if study.target is not None else [],
        "trials": [_trial(study, trial, results.get(trial.key)) for trial in study.trials],
    }


def crossing(curve: Sequence[tuple[int, int, float | None]], target: float, higher: bool) -> tuple[float, float] | None:
    """(steps, examples) at which a curve first reaches `target`, on the line between two evaluations; None: never."""
    before: tuple[int, int, float] | None = None
    for steps, examples, value in curve:
        if value is None:
            before = None
            continue
        if value >= target if higher else value <= target:
            if before is None or before[2] == value:
                return float(steps), float(examples)
            share = (target - before[2]) / (value - before[2])
            return before[0] + share * (steps - before[0]), before[1] + share * (examples - before[1])
        before = steps, examples, value
    return None


def _cell(study: Study, name: str, batch: int, results: Mapping[str, Result]) -> dict[str, Any]:
    trials = [trial for trial in study.trials if trial.cell == (name, batch)]
    reported = [trial for trial in trials if trial.part == "reported"]
    tuning = [trial for trial in trials if trial.part == "tuning"]
    outcomes = {trial.seed: _outcome(results.get(trial.key)) for trial in reported}
    finals = {seed: outcome.final for seed, outcome in outcomes.items() if outcome and outcome.final is not None}
    reached = {}
    if study.target is not None:
        for seed, outcome in outcomes.items():
            found = outcome and not outcome.diverged and crossing(outcome.curve, study.target, study.higher_is_better)
            if found:
                reached[seed] = found
    known = all(trial.key in results for trial in tuning)
    settings = dict(chosen_settings(study, reported[0], results) or {}) if known else {}
    everywhere = [outcome for outcome in outcomes.values() if outcome is not None]
    scaled = reported[0].scaled(settings)
    return {
        "entrant": name,
        "batch_size": batch,
        "num_steps": max((outcome.num_steps for outcome in everywhere), default=None),
        "settings": settings,
        "lr": settings.get(LR, scaled and scaled[0].lr),
        "warmup_steps": scaled and scaled[0].warmup_steps,
        "at_edge": _at_edge(tuning, settings),
        "finals": {str(seed): value for seed, value in finals.items()},
        "final": mean_interval(list(finals.values()), *study.metric_range).to_json() if finals else None,
        "num_seeds": len(reported),
        "num_examples": max((outcome.curve[-1][1] for outcome in everywhere if outcome.curve), default=None),
        "diverged": sum(outcome.diverged for outcome in everywhere),
        "still": sum(_still(outcome) for outcome in everywhere),
        "failed": sum(bool(results[trial.key].error) for trial in reported if trial.key in results),
        "num_tuning_trials": len(tuning),
        "tuning_diverged": sum(
            outcome.diverged for trial in tuning if (outcome := _outcome(results.get(trial.key))) is not None
        ),
        "steps_to_target": {str(seed): steps for seed, (steps, _) in reached.items()},
        "examples_to_target": {str(seed): examples for seed, (_, examples) in reached.items()},
        # The mean over the lucky seeds alone would flatter.
        "steps": mean_interval([steps for steps, _ in reached.values()], 0.0).to_json()
        if len(reached) == len(reported)
        else None,
        "sensitivity": [
            {**(trial.settings or {}), "seed": trial.seed, "final": outcome.final if outcome else None}
            for trial in tuning
            if trial.key in results
            for outcome in [_outcome(results[trial.key])]
        ],
    }


def _still(outcome: Outcome) -> bool:
    """Whether a run that has not diverged ended where the untrained model stood."""
    if outcome.final is None or outcome.curve[0][0] != 0 or (start := outcome.curve[0][2]) is None:
        return False
    return len(outcome.curve) > 1 and abs(outcome.final - start) <= _STILL * abs(start)


def _outcome(result: Result | None) -> Outcome | None:
    return None if result is None else result.outcome


def _at_edge(tuning: Sequence[Trial], settings: Mapping[str, float]) -> str | None:
    """'lowest' or 'highest' where the best rate is the last one tried on that side."""
    rates = sorted({trial.settings[LR] for trial in tuning if trial.settings and LR in trial.settings})
    if len(rates) < 2 or LR not in settings:
        return None
    return {rates[0]: "lowest", rates[-1]: "highest"}.get(settings[LR])


def _differences(study: Study, cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each pair of entrants at each batch, seed by seed; a positive difference means that the first one is better."""
    sign = 1 if study.higher_is_better else -1
    rows = []
    for batch in study.batch_sizes:
        there = [cell for cell in cells if cell["batch_size"] == batch]
        for first, second in combinations(there, 2):
            seeds = [seed for seed in first["finals"] if seed in second["finals"]]
            pairs = [sign * (first["finals"][seed] - second["finals"][seed]) for seed in seeds]
            rows.append(
                {
                    "batch_size": batch,
                    "first": first["entrant"],
                    "second": second["entrant"],
                    "difference": mean_interval(pairs).to_json() if pairs else None,
                    "p_value": paired_p_value(pairs) if len(pairs) >= FEWEST_FOR_P_VALUES else None,
                    "num_seeds": first["num_seeds"],
                }
            )
    return rows


def _scaling(name: str, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Examples to target over the batch, and E = E_min (1 + B / B_crit) through them."""
    mine = [cell for cell in cells if cell["entrant"] == name]
    points = [(cell["batch_size"], examples) for cell in mine for examples in cell["examples_to_target"].values()]
    # A batch of which some seeds never arrive would enter with its lucky seeds alone.
    whole = [cell for cell in mine if cell["steps"]]
    run = [cell for cell in mine if cell["num_examples"] and cell not in whole]
    used = [(cell["batch_size"], examples) for cell in whole for examples in cell["examples_to_target"].values()]
    # Nor would it do to leave it out: what is left, the quicker batches, would make the critical batch too large.
    ended = [
        (cell["batch_size"], float(examples))
        for cell in run
        for examples in [
            *cell["examples_to_target"].values(),
            *[cell["num_examples"]] * (cell["num_seeds"] - len(cell["examples_to_target"])),
        ]
    ]
    fit = fit_critical_batch(*zip(*used + ended, strict=True)) if used else None
    return {
        "entrant": name,
        "points": points,
        "batches_fitted": [cell["batch_size"] for cell in whole],
        "missed": [
            {
                "batch_size": cell["batch_size"],
                "reached": len(cell["examples_to_target"]),
                "of": cell["num_seeds"],
                "num_examples": cell["num_examples"],
            }
            for cell in run
        ],
        "fit": None if fit is None or run else fit.to_json(),
        "bound": fit.to_json() if fit is not None and run else None,
    }


def _trial(study: Study, trial: Trial, result: Result | None) -> dict[str, Any]:
    outcome = _outcome(result)
    state = (
        "not run" if result is None
        else "failed" if outcome is None
        else "diverged" if outcome.diverged
        else "learned nothing" if _still(outcome)
        else "finished"
    )  # fmt: skip
    return {
        "key": trial.key,
        "entrant": trial.entrant.name,
        "batch_size": trial.batch_size,
        "part": trial.part,
        "seed": trial.seed,
        "settings": dict(result.settings) if result else dict(trial.settings or {}),
        "state": state,
        "error": result.error if result else "",
        "final": outcome.final if outcome else None,
        "num_steps": outcome.num_steps if outcome else None,
        "curve": [list(point) for point in outcome.curve] if outcome and trial.part == "reported" else [],
        "ratios": [[step, dict(layers)] for step, layers in outcome.ratios] if outcome else [],
    }
