"""The demo: a GPT on characters, trained at a tuned reference batch and, untuned, at larger ones."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import Any

from anybatch.engine import Progress
from anybatch.files import write_json
from anybatch.recipes import Recipe, change, find_recipe, train_recipe
from anybatch.recipes.builtin_text import prepare_builtin_text
from anybatch.recipes.recipe import CausalRecipe
from anybatch.runs import Run
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


@dataclass(frozen=True)
class Cell:
    """One optimizer at one batch size: a run."""

    name: str
    recipe: Recipe
    factor: int
    folder: Path

    @property
    def title(self) -> str:
        return f"{self.name}, batch {self.recipe.phases[0].batch_size} (\u00d7{self.factor})"


def cells(out: Path, seed: int) -> list[Cell]:
    """The demo's grid for one seed, the smallest batches (the longest runs) first."""
    found = []
    for trial in declared((seed,)).trials:
        # A watched step is cut in two, and its different rounding would hide whether a demo repeats an earlier one.
        settings = [f"data.path={json.dumps(str(out / 'data'))}", "engine.noise_every=0"]
        recipe = change(trial.recipe({}), settings)
        place = f"{recipe.optimizer.name}-{trial.batch_size:04d}"
        found.append(
            Cell(trial.entrant.name, recipe, trial.batch_size // recipe.reference.batch_size, out / "runs" / place)
        )
    return found


def run_demo(out: Path, seed: int, progress: Progress, num_workers: int | None = None) -> list[Path]:
    """Prepares the text, trains every cell, writes OUT/findings.json, and returns the run folders.

    A stopped demo continues where it was: finished runs are not repeated.

    Args:
        num_workers: the number of runs side by side; by default one a core, at most four.
    """
    grid = cells(out, seed)
    if not (out / "data").exists():
        progress.say("preparing the text: Python's language reference and the docstrings of its library")
        recipe = grid[0].recipe
        assert isinstance(recipe, CausalRecipe)
        assert recipe.data.tokenizer is not None
        summary = prepare_builtin_text(out / "data", recipe.data.tokenizer)
        progress.say(
            f"{summary.train.documents} documents, {summary.train.tokens:,} characters to train on, "
            f"{summary.held_out.tokens:,} held out, a vocabulary of {summary.vocabulary_size:,}"
        )
    calls = [partial(run_cell, cell, f"[{number}/{len(grid)}]") for number, cell in enumerate(grid, start=1)]
    run_side_by_side(calls, num_workers or min(os.cpu_count() or 1, MOST_WORKERS), progress)
    write_json(out / "findings.json", rows(grid))
    return [cell.folder for cell in grid]


def run_cell(cell: Cell, place: str, progress: Progress) -> None:
    """Trains one cell; prints its scores."""
    title = f"{place} {cell.title}"
    result = train_recipe(cell.recipe, cell.folder, resume=True, progress=progress, title=title)
    final = result["final"]
    progress.say(
        f"{title}: {result['num_steps']:,} steps, held-out loss {final['loss']:.3f}, "
        f"{final['lm_accuracy']:.0%} of the characters right"
    )


def rows(grid: Sequence[Cell]) -> list[dict[str, Any]]:
    """Returns the results of finished runs, one row each.

    `kept`: the gain over the loss that the characters' frequencies give, as a share of the same optimizer's gain at
        its reference batch; None if one of the two has no finite loss.
    """
    results = [Run(cell.folder).result() for cell in grid]
    gains = [
        None if (loss := result["final"]["loss"]) is None else result["context_free_loss"] - loss for result in results
    ]
    references = {cell.name: gain for cell, gain in zip(grid, gains, strict=True) if cell.factor == 1}
    return [
        {
            "optimizer": result["optimizer"],
            "batch": result["global_batch_size"],
            "factor": cell.factor,
            "seed": result["seed"],
            "loss": result["final"]["loss"],
            "kept": gain / references[cell.name] if gain is not None and references[cell.name] else None,
            "accuracy": result["final"]["lm_accuracy"],
            "context_free_loss": result["context_free_loss"],
            "num_steps": result["num_steps"],
            "lr": result["lr"],
            "wall_s": result["wall_s"],
        }
        for cell, result, gain in zip(grid, results, gains, strict=True)
    ]


def measured_before() -> dict[str, list[str]] | None:
    """Returns the results of several seeds by benchmarks/demo_seeds.py, in sentences; None if it was not run."""
    resource = files("anybatch.study") / "measured.json"
    if not resource.is_file():
        return None
    measured = json.loads(resource.read_text(encoding="utf-8"))
    seeds = f"seed{'' if len(measured['seeds']) == 1 else 's'} {', '.join(map(str, measured['seeds']))}"
    about = measured["environment"]
    sentences = [f"The same demo with {seeds} on {about['processor']}, {about['started'][:10]}:"]
    for name in dict.fromkeys(row["optimizer"] for row in measured["rows"]):
        mine = [row for row in measured["rows"] if row["optimizer"] == name and row["factor"] > 1]
        by_factor = {factor: [row["kept"] for row in mine if row["factor"] == factor] for factor in _factors(mine)}
        shares = [f"{_range(kept)} at \u00d7{factor}" for factor, kept in by_factor.items()]
        label = next(entrant.name for entrant in declared().entrants if entrant.recipe.optimizer.name == name)
        sentences.append(f"{label} kept {', '.join(shares)} of what its own reference learned.")
    return {"sentences": sentences}


def _factors(found: Sequence[dict[str, Any]]) -> list[int]:
    return list(dict.fromkeys(row["factor"] for row in found))


def _range(kept: Sequence[float]) -> str:
    mean, low, high = (f"{value:.1%}".replace("%", "\u202f%") for value in (fmean(kept), min(kept), max(kept)))
    return mean if len(kept) == 1 else f"{mean} ({low} to {high})"
