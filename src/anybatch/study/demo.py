"""The demo: BERT pretrained at a tuned reference batch and, with nothing tuned, at larger ones; then asked questions."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from anybatch.engine import Progress
from anybatch.recipes import Recipe, change, find_recipe, train_recipe, with_batch_size
from anybatch.recipes.builtin_text import prepare_builtin_text

# Factors of the reference batch: what should hold, what may, and one past the critical batch that cannot.
FACTORS = (1, 4, 8, 32)
RECIPES = ("bert-tiny", "bert-tiny-adamw")


@dataclass(frozen=True)
class Cell:
    """One optimizer at one batch size: a pretraining run and the fine-tuning run that starts from it."""

    recipe: Recipe
    pretraining: Path
    questions: Path

    @property
    def title(self) -> str:
        return f"{self.recipe.optimizer.name.upper()}, batch {self.recipe.phases[0].batch_size}"


def cells(out: Path, seed: int, factors: Sequence[int] = FACTORS) -> list[Cell]:
    """The demo's grid, optimizer by optimizer, each from its own reference batch upwards."""
    grid = []
    for name in RECIPES:
        recipe = change(find_recipe(name), [f"seed={seed}", f"data.path={json.dumps(str(out / 'data'))}"])
        for factor in factors:
            scaled = with_batch_size(recipe, recipe.reference.batch_size * factor)
            place = f"{recipe.optimizer.name}-{scaled.phases[0].batch_size:04d}"
            grid.append(Cell(scaled, out / "pretraining" / place, out / "questions" / place))
    return grid


def run_demo(out: Path, seed: int, progress: Progress) -> list[Path]:
    """Prepares the text, pretrains and fine-tunes every cell, and returns the run folders.

    A demo that was stopped goes on where it was: finished runs are not repeated.
    """
    if not (out / "data").exists():
        progress.say("preparing the text: Python's language reference and the docstrings of its library")
        summary = prepare_builtin_text(out / "data")
        progress.say(
            f"{summary.train.documents} documents, {summary.train.tokens:,} tokens to train on, "
            f"{summary.held_out.tokens:,} held out, a vocabulary of {summary.vocabulary_size}"
        )
    grid = cells(out, seed)
    for number, cell in enumerate(grid, start=1):
        place = f"[{number}/{len(grid)}] {cell.title}"
        train_recipe(cell.recipe, cell.pretraining, resume=True, progress=progress, title=f"{place}: pretraining")
        questions = change(
            find_recipe("squad-tiny"), [f"seed={seed}", f"model.path={json.dumps(str(cell.pretraining))}"]
        )
        result = train_recipe(questions, cell.questions, resume=True, progress=progress, title=f"{place}: questions")
        loss = json.loads((cell.pretraining / "result.json").read_text())["final"]["loss"]
        progress.say(f"{place}: held-out loss {loss:.3f}, F1 {result['final']['f1']:.1f}")
    return [folder for cell in grid for folder in (cell.pretraining, cell.questions)]


def measured_before() -> dict[str, Any] | None:
    """What several seeds gave when benchmarks/demo_seeds.py was last run; None where it was not."""
    resource = files("anybatch.study") / "measured.json"
    return dict(json.loads(resource.read_text(encoding="utf-8"))) if resource.is_file() else None
