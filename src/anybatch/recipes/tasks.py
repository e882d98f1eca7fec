"""Every kind of run by the `task` of its recipe. A new kind is one `Task`, listed here, and its recipe in recipe.py."""

from typing import Any

import torch

from anybatch.engine import Job
from anybatch.recipes import causal, images, pretraining, questions
from anybatch.recipes.recipe import Recipe
from anybatch.recipes.task import Outline, Task
from anybatch.runs import Run

TASKS: dict[str, Task[Any]] = {
    "pretraining": pretraining.TASK,
    "questions": questions.TASK,
    "causal": causal.TASK,
    "images": images.TASK,
}


def task_of(recipe: Recipe) -> Task[Any]:
    """The kind of run that `recipe` is."""
    return TASKS[recipe.task]


def build(recipe: Recipe, run: Run) -> Job:
    """The job of a recipe, whose own data, if it has any, are prepared in the run folder."""
    return task_of(recipe).build(recipe, run)


def outline(recipe: Recipe) -> Outline:
    """The outline of `recipe`; no weight is made and no text is read.

    Raises:
        InputError: a shape that is impossible, or a path that does not hold what the recipe needs.
    """
    with torch.device("meta"):
        return task_of(recipe).outline(recipe)
