"""What `anybatch study` does: declares, shows the plan, or runs what is left and writes the table down."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from anybatch.engine import Progress
from anybatch.engine.environment import describe_environment
from anybatch.files import write_json
from anybatch.recipes.preview import aligned
from anybatch.study.catalogue import declare
from anybatch.study.declaration import LR, Study
from anybatch.study.findings import headline, sentences
from anybatch.study.setup import setup


def declared(name: str, **options: Any) -> Callable[[], Study]:
    """The maker of a study, which workers in other processes call, too; wrong options show at once."""
    make = partial(declare, name, options)
    make()
    return make


def plan(study: Study) -> dict[str, Any]:
    """What a study would run: its setting, a row for every optimizer at every batch, and how much that is in all."""
    rows = []
    examples: int | None = 0
    trials = study.trials
    for batch in study.batch_sizes:
        for entrant in study.entrants:
            cell = [trial for trial in trials if trial.cell == (entrant.name, batch)]
            tuning = [trial for trial in cell if trial.part == "tuning"]
            rates = sorted({trial.settings[LR] for trial in tuning if trial.settings and LR in trial.settings})
            scaled = cell[0].scaled({})
            rows.append(
                {
                    "optimizer": entrant.name,
                    "batch": batch,
                    "rate": f"{rates[0]:.4g} to {rates[-1]:.4g}" if rates else scaled and float(f"{scaled[0].lr:.4g}"),
                    "warmup_steps": scaled and scaled[0].warmup_steps,
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
        "metric": study.metric,
        "target": study.target,
        "runs": rows,
        "trials": len(trials),
        "examples": examples,
    }


def plan_text(planned: Mapping[str, Any]) -> str:
    """`plan`'s answer for a terminal."""
    shown = [[name.replace("_", " ") for name in planned["runs"][0]]]
    shown += [
        ["?" if value is None else f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()]
        for row in planned["runs"]
    ]
    target = "" if planned["target"] is None else f", and steps to {planned['target']:g}"
    examples = (
        "examples: known once the data are" if planned["examples"] is None else f"{planned['examples']:,} examples"
    )
    return "\n".join(
        [
            f"{planned['study']}: {planned['question']}",
            "",
            *planned["setting"],
            f"Measured: the final {planned['metric']}{target}.",
            "",
            *aligned(shown),
            "",
            f"{planned['trials']} trials, {examples} in all",
        ]
    )


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
        "setting": setup(study),
        "headline": headline(table),
        "findings": sentences(table),
        "environment": describe_environment(),
    }
    write_json(out / "study.json", found)
    return found
