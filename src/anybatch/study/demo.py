"""The demo: a GPT on characters, trained at a tuned reference batch and, untuned, at larger ones."""

import json
import os
from collections.abc import Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from anybatch.comparison.families import compare
from anybatch.comparison.folders import load
from anybatch.engine import Progress
from anybatch.files import write_json
from anybatch.recipes import Recipe, change, find_recipe, train_recipe
from anybatch.recipes.builtin_text import prepare_builtin_text
from anybatch.recipes.recipe import CausalRecipe
from anybatch.study.declaration import Entrant, Study
from anybatch.study.workers import run_side_by_side

# A worker takes some 500 MB; four workers suit the grid, and fit into a laptop's memory.
MOST_WORKERS = 4


def declared(seeds: Sequence[int] = (0, 1, 2)) -> Study:
    """LAMB and AdamW with a GPT on characters: a tuned reference at batch 2; batches 8, 32 and 128 follow by rule."""
    return Study(
        name="scaling",
        question="How much of what a model learns at its tuned batch does it learn at larger ones, with nothing tuned?",
        entrants=(Entrant("LAMB", find_recipe("gpt-demo")), Entrant("AdamW", find_recipe("gpt-demo-adamw"))),
        batch_sizes=(2, 8, 32, 128),
        seeds=tuple(seeds),
    )


def cells(out: Path, seed: int) -> list[tuple[str, Recipe, Path]]:
    """The demo's grid for one seed: a title, a recipe and a folder for each run, the longest runs first."""
    found = []
    for trial in declared((seed,)).trials:
        # A watched step is cut in two, whose other rounding would hide whether a demo repeats an earlier one.
        recipe = change(trial.recipe({}), [f"data.path={json.dumps(str(out / 'data'))}", "engine.noise_every=0"])
        factor = trial.batch_size // recipe.reference.batch_size
        title = f"{trial.entrant.name}, batch {trial.batch_size} (\u00d7{factor})"
        found.append((title, recipe, out / "runs" / f"{recipe.optimizer.name}-{trial.batch_size:04d}"))
    return found


def run_demo(out: Path, seed: int, progress: Progress, num_workers: int | None = None) -> list[Path]:
    """Prepares the text, trains every cell, writes OUT/findings.json, and returns the run folders.

    A demo that was stopped continues where it was: finished runs are not repeated.

    Args:
        num_workers: the number of runs side by side; by default one a core, at most four.
    """
    grid = cells(out, seed)
    if not (out / "data").exists():
        progress.say("preparing the text: Python's language reference and the docstrings of its library")
        recipe = grid[0][1]
        assert isinstance(recipe, CausalRecipe)
        assert recipe.data.tokenizer is not None
        summary = prepare_builtin_text(out / "data", recipe.data.tokenizer)
        train = summary["train"]
        progress.say(
            f"{train['documents']} documents, {train['tokens']:,} characters to train on, "
            f"{summary['held_out']['tokens']:,} held out, a vocabulary of {summary['vocabulary_size']:,}"
        )
    calls = [
        partial(run_cell, f"[{number}/{len(grid)}] {title}", recipe, folder)
        for number, (title, recipe, folder) in enumerate(grid, start=1)
    ]
    run_side_by_side(calls, num_workers or min(os.cpu_count() or 1, MOST_WORKERS), progress)
    folders = [folder for *_, folder in grid]
    write_json(out / "findings.json", rows(folders))
    return folders


def run_cell(title: str, recipe: Recipe, folder: Path, progress: Progress) -> None:
    """Trains one cell; says its scores."""
    result = train_recipe(recipe, folder, resume=True, progress=progress, title=title)
    final = result["final"]
    progress.say(
        f"{title}: {result['num_steps']:,} steps, held-out loss {final['loss']:.3f}, "
        f"{final['lm_accuracy']:.0%} of the characters right"
    )


def rows(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """What finished runs gave, a row each, by batch; `kept` as on their page, None if it has no finite loss."""
    comparison = compare(load(folders))
    return [
        {
            "optimizer": run.optimizer,
            "batch": run.batch,
            "factor": round(cell.factor) if cell.factor else None,
            "seed": run.seed,
            "loss": run.score,
            "kept": cell.kept.get(run.name),
            "accuracy": run.accuracy,
            "context_free_loss": run.context_free_loss,
            "num_steps": run.num_steps,
            "lr": run.lr,
            "wall_s": run.wall_s,
        }
        for batch in comparison.batches
        for one in comparison.series
        if (cell := one.at(batch)) is not None
        for run in cell.runs
    ]


def measured_before() -> dict[str, Any] | None:
    """Returns the results of several seeds by benchmarks/demo_seeds.py, told in `sentences`; None if it was not run."""
    resource = files("anybatch.study") / "measured.json"
    return dict(json.loads(resource.read_text(encoding="utf-8"))) if resource.is_file() else None
