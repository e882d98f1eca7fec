"""The demo's grid: nothing in it is tuned but the references."""

import math
from pathlib import Path

from anybatch.study.demo import FACTORS, RECIPES, cells


def test_every_cell_follows_from_its_reference(tmp_path: Path) -> None:
    grid = cells(tmp_path, seed=3)
    assert len(grid) == len(FACTORS) * len(RECIPES)
    for cell in grid:
        recipe, (phase,) = cell.recipe, cell.recipe.phases
        assert recipe.seed == 3
        assert recipe.optimizer.lr is None
        assert recipe.optimizer.warmup_ratio is None
        assert phase.batch_size == cell.factor * recipe.reference.batch_size
        scaled = recipe.reference.at(phase.batch_size, phase.share, 10_000)
        assert math.isclose(scaled.lr, recipe.reference.lr * math.sqrt(cell.factor))
        assert scaled.num_steps * phase.batch_size == recipe.reference.num_examples


def test_the_optimizers_differ_in_optimizer_and_rate_alone(tmp_path: Path) -> None:
    lamb, adamw = (cell.recipe.model_dump() for cell in cells(tmp_path, seed=0)[:2])
    for recipe in (lamb, adamw):
        del recipe["name"], recipe["optimizer"]["name"], recipe["reference"]["lr"]
    assert lamb == adamw


def test_folders_are_told_apart(tmp_path: Path) -> None:
    grid = cells(tmp_path, seed=0)
    assert len({cell.pretraining for cell in grid} | {cell.questions for cell in grid}) == 2 * len(grid)
