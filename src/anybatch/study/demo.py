"""The demo: BERT pretrained at a tuned reference batch and, untuned, at larger ones; then asked questions."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from anybatch.engine import Progress
from anybatch.recipes import Recipe, change, find_recipe, train_recipe, with_batch_size
from anybatch.recipes.builtin_text import prepare_builtin_text
from anybatch.study.workers import run_side_by_side

# Factors of the reference batch: one that should hold, one that may, and one at which the steps run out.
FACTORS = (1, 4, 16, 64)
RECIPES = ("bert-demo", "bert-demo-adamw")
_NAMES = {"lamb": "LAMB", "adamw": "AdamW"}
# A worker takes some 700 MB; four of them serve the grid well, and keep within a laptop's memory.
MOST_WORKERS = 4


@dataclass(frozen=True)
class Cell:
    """One optimizer at one batch size: a pretraining run, and the fine-tuning run that starts from it."""

    recipe: Recipe
    factor: int
    pretraining: Path
    questions: Path

    @property
    def title(self) -> str:
        name = self.recipe.optimizer.name
        return f"{_NAMES.get(name, name)}, batch {self.recipe.phases[0].batch_size} (x{self.factor})"


def cells(out: Path, seed: int, factors: Sequence[int] = FACTORS) -> list[Cell]:
    """The demo's grid, the smallest batches (the longest runs) first."""
    grid = []
    for factor in factors:
        for name in RECIPES:
            # A watched step is cut in two, whose other rounding would hide whether a demo repeats an earlier one.
            settings = [f"seed={seed}", f"data.path={json.dumps(str(out / 'data'))}", "engine.noise_every=0"]
            recipe = change(find_recipe(name), settings)
            recipe = with_batch_size(recipe, recipe.reference.batch_size * factor)
            place = f"{recipe.optimizer.name}-{recipe.phases[0].batch_size:04d}"
            grid.append(Cell(recipe, factor, out / "pretraining" / place, out / "questions" / place))
    return grid


def run_demo(out: Path, seed: int, progress: Progress, num_workers: int | None = None) -> list[Path]:
    """Prepares the text, pretrains and fine-tunes every cell, and returns the run folders.

    A demo that was stopped goes on where it was: finished runs are not repeated.

    Args:
        num_workers: runs side by side; by default one a core, at most four.
    """
    if not (out / "data").exists():
        progress.say("preparing the text: Python's language reference and the docstrings of its library")
        summary = prepare_builtin_text(out / "data")
        progress.say(
            f"{summary.train.documents} documents, {summary.train.tokens:,} tokens to train on, "
            f"{summary.held_out.tokens:,} held out, a vocabulary of {summary.vocabulary_size:,}"
        )
    grid = cells(out, seed)
    calls = [partial(run_cell, cell, f"[{number}/{len(grid)}]") for number, cell in enumerate(grid, start=1)]
    run_side_by_side(calls, num_workers or min(os.cpu_count() or 1, MOST_WORKERS), progress)
    return [folder for cell in grid for folder in (cell.pretraining, cell.questions)]


def run_cell(cell: Cell, place: str, progress: Progress) -> None:
    """Pretrains and fine-tunes one cell; says its scores."""
    title = f"{place} {cell.title}"
    text = train_recipe(cell.recipe, cell.pretraining, resume=True, progress=progress, title=f"{title}: pretraining")
    recipe = change(
        find_recipe("squad-demo"),
        [
            f"seed={cell.recipe.seed}",
            f"model.path={json.dumps(str(cell.pretraining))}",
            "engine.noise_every=0",
        ],
    )
    answers = train_recipe(recipe, cell.questions, resume=True, progress=progress, title=f"{title}: questions")
    progress.say(
        f"{title}: {text['num_steps']} steps, held-out loss {text['final']['loss']:.3f}, "
        f"F1 {answers['final']['f1']:.1f}"
    )


def measured_before() -> dict[str, list[str]] | None:
    """What several seeds gave when benchmarks/demo_seeds.py was last run, in sentences; None where it was not."""
    resource = files("anybatch.study") / "measured.json"
    if not resource.is_file():
        return None
    measured = json.loads(resource.read_text(encoding="utf-8"))
    seeds = ", ".join(map(str, measured["seeds"]))
    about = measured["environment"]
    sentences = [f"The same demo with seeds {seeds} on {about['processor']}, {about['started'][:10]}:"]
    for name in dict.fromkeys(cell["optimizer"] for cell in measured["cells"]):
        gaps = [
            f"{_range(cell['gap_percent'])} at ×{cell['factor']}"
            for cell in measured["cells"]
            if cell["optimizer"] == name and cell["factor"] > 1
        ]
        held = [
            f"\u00d7{cell['factor']}"
            for cell in measured["cells"]
            if cell["optimizer"] == name and cell["factor"] > 1 and cell["gap_percent"]["mean"] <= 5
        ]
        extent = f"held at {', '.join(held)}" if held else "held at no larger batch"
        sentences.append(f"On the mean {_NAMES.get(name, name)} {extent}.")
        sentences.append(f"{_NAMES.get(name, name)} ended above its own reference by {', '.join(gaps)}.")
    return {"sentences": sentences}


def _range(gap: dict[str, Any]) -> str:
    mean, low, high = (f"{value:+.1f}\u202f%" for value in (gap["mean"], min(gap["each"]), max(gap["each"])))
    return f"{mean} ({low} to {high})"
