"""Every kind of run by the `task` of its recipe, and the job of a recipe.

A new kind is one `Task`, listed here, its recipe in recipe.py, and its words in comparison/wording.py.
"""

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch

from anybatch.engine import Job, Phase
from anybatch.engine.devices import local_device
from anybatch.errors import InputError
from anybatch.models.pretrained import save_tokenizer
from anybatch.optim.kernels.library import squares
from anybatch.recipes.causal import Causal
from anybatch.recipes.images import Images
from anybatch.recipes.optimizers import build_optimizer
from anybatch.recipes.phases import plan_phases
from anybatch.recipes.pretraining import Pretraining
from anybatch.recipes.questions import Questions
from anybatch.recipes.recipe import Recipe
from anybatch.recipes.task import Outline, Task
from anybatch.runs import Run
from anybatch.scaling import GradientNoiseScale

TASKS: dict[str, type[Task[Any]]] = {
    "pretraining": Pretraining,
    "questions": Questions,
    "causal": Causal,
    "images": Images,
}


def build(recipe: Recipe, run: Run) -> Job:
    """Builds the job of a recipe, its model on this process's device; prepares its own data, if any, in the run folder.

    Raises:
        InputError: data, vocabulary, model or batch size do not fit each other.
    """
    task = TASKS[recipe.task](recipe, run)
    # An optimizer chooses kernels by the device of its parameters.
    model: Any = task.model().to(local_device())
    try:
        phases = plan_phases(recipe, task.source, task.flops, task.group_size)
    except InputError as error:
        raise InputError(f"{error}{task.left_out()}") from None
    optimizer = build_optimizer(model, recipe.optimizer, phases[0].hyperparameters)

    def export(finished: Any, target: Path) -> None:
        finished.save(target)
        if task.tokenizer is not None:
            save_tokenizer(task.tokenizer, target, finished.max_positions)

    return Job(
        model=model,
        optimizer=optimizer,
        phases=phases,
        held_out=task.held_out,
        seed=recipe.seed,
        inputs=fingerprints(recipe, run, **task.inputs()),
        max_grad_norm=recipe.max_grad_norm,
        execution=recipe.engine,
        score=partial(task.scores, at_end=True),
        export=export,
        summary={**_summary(recipe, phases, model), "parent": None, **task.summary()},
        # Once a step, for the metrics.
        noise_meter=partial(
            GradientNoiseScale, optimizer=optimizer if recipe.engine.noise_detail else None, every=None, window=1
        ),
        squares=squares,
    )


def outline(recipe: Recipe) -> Outline:
    """Returns the outline of `recipe`; makes no weight and reads no text.

    Raises:
        InputError: an impossible shape, or a path that does not hold what the recipe needs.
    """
    with torch.device("meta"):
        return TASKS[recipe.task].outline(recipe)


def fingerprints(recipe: Recipe, run: Run, **others: str) -> dict[str, str]:
    """Returns what a checkpoint of this recipe and a run that continues from it must have in common, by name.

    The recipe is taken as it is in the run folder, where fields may have older names. Its engine options are left out:
    they do not change the result. So are its paths: `others` has fingerprints of their content.
    """
    values = run.recipe() if run.recipe_file.exists() else recipe.model_dump(mode="json")
    values = {name: value for name, value in values.items() if name != "engine"}
    for part in ("data", "model"):
        values[part] = {name: value for name, value in values.get(part, {}).items() if name != "path"}
    return {"recipe": hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest(), **others}


def _summary(recipe: Recipe, phases: list[Phase], model: torch.nn.Module) -> dict[str, Any]:
    """Returns the settings that result.json repeats, so that a table of runs needs no other file."""
    return {
        "recipe": recipe.name,
        "task": recipe.task,
        "optimizer": recipe.optimizer.name,
        "global_batch_size": phases[0].global_batch_size,
        "micro_batch_size": recipe.engine.micro_batch_size,
        "lr": phases[0].lr,
        "warmup_steps": phases[0].warmup_steps,
        "seed": recipe.seed,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "reference": {name: getattr(recipe.reference, name) for name in ("batch_size", "lr", "warmup_ratio")},
        "rule": recipe.reference.rule,
        "hyperparameters": dict(phases[0].hyperparameters),
    }
