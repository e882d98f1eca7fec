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
    """Returns the kind of run of `recipe`."""
    return TASKS[recipe.task]


def build(recipe: Recipe, run: Run) -> Job:
    """Builds the job of a recipe; prepares its own data, if it has any, in the run folder."""
    return task_of(recipe).build(recipe, run)


def outline(recipe: Recipe) -> Outline:
    """Returns the outline of `recipe`; makes no weight and reads no text.

    Raises:
        InputError: an impossible shape, or a path that does not hold what the recipe needs.
    """
    with torch.device("meta"):
        return task_of(recipe).outline(recipe)
