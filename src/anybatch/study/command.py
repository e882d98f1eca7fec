"""What `anybatch study` does: declares, shows the plan, or runs what is left and writes the table down."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from anybatch.engine import Progress
from anybatch.engine.environment import describe_environment
from anybatch.errors import InputError
from anybatch.files import write_json
from anybatch.study.catalogue import declare
from anybatch.study.declaration import Study
from anybatch.study.findings import headline, sentences


def declared(name: str, **options: Any) -> Callable[[], Study]:
    """The maker of a study, which workers in other processes call, too; wrong options show at once."""
    make = partial(declare, name, options)
    make()
    return make


def plan(study: Study) -> dict[str, Any]:
    """What a study would run: trials and steps of every entrant at every batch, and their sum."""
    rows: dict[str, Any] = {}
    total_trials = total_examples = 0
    trials = study.trials
    for batch in study.batch_sizes:
        for entrant in study.entrants:
            cell = [trial for trial in trials if trial.cell == (entrant.name, batch)]
            tuning = sum(trial.part == "tuning" for trial in cell)
            steps, examples = _length(cell[0].recipe({}), entrant.name)
            rows[f"{entrant.name}, batch {batch:,}"] = {
                "tuning_trials": tuning,
                "reported_trials": len(cell) - tuning,
                "steps_a_trial": steps if steps is not None else "known once the data are",
            }
            total_trials += len(cell)
            total_examples += len(cell) * (examples or 0)
    return {
        "study": study.name,
        "question": study.question,
        "protocol": study.protocol,
        **rows,
        "trials": total_trials,
        "examples": total_examples or "known once the data are",
    }


def shown(found: Mapping[str, Any], page: Path) -> dict[str, str]:
    """What the command prints: the findings, numbered, and where the page is."""
    return {**{str(number): line for number, line in enumerate(found["findings"], start=1)}, "page": str(page)}


def finish_study(
    make: Callable[[], Study], out: Path, progress: Progress, *, storage: str | None, num_workers: int, heartbeat_s: int
) -> dict[str, Any]:
    """Runs what is left of the study and writes its table, with the findings in words, to `out`/study.json."""
    from anybatch.study.table import tabulate
    from anybatch.study.worker import run_study

    study = make()
    results = run_study(make, out, progress, storage=storage, num_workers=num_workers, heartbeat_s=heartbeat_s)
    table = tabulate(study, results)
    found = {
        **table,
        "headline": headline(table),
        "findings": sentences(table),
        "environment": describe_environment(),
    }
    write_json(out / "study.json", found)
    return found


def _length(recipe: Any, name: str) -> tuple[int | None, int | None]:
    """Steps and examples of a run; None where they depend on data that are not at hand."""
    if recipe.reference.num_epochs is not None:
        return None, None
    try:
        scaled = [recipe.reference.at(phase.batch_size, phase.share, 0) for phase in recipe.phases]
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None
    steps = sum(one.num_steps for one in scaled)
    return steps, sum(one.num_steps * one.batch_size for one in scaled)
