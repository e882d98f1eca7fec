"""Builds the engine's job from what a kind of recipe brings and the settings that all recipes have."""

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from tokenizers import Tokenizer
from torch import nn

from anybatch.engine import Job, Phase
from anybatch.engine.devices import local_device
from anybatch.engine.job import Scores
from anybatch.environment import half_of_memory
from anybatch.errors import InputError
from anybatch.models.pretrained import save_tokenizer
from anybatch.optim.kernels.library import squares
from anybatch.recipes.optimizers import build_optimizer
from anybatch.recipes.recipe import Recipe
from anybatch.runs import Run
from anybatch.scaling import GradientNoiseScale

Model = TypeVar("Model", bound=nn.Module)


def job_of(
    recipe: Recipe,
    run: Run,
    model: nn.Module,
    phases: list[Phase],
    *,
    held_out: Any,
    inputs: dict[str, str],
    score: Callable[[nn.Module], Scores],
    tokenizer: Tokenizer | None = None,
    parent: str | None = None,
    **summary: Any,
) -> Job:
    """Returns the job; its model is on this process's device.

    Args:
        held_out, score: as the fields of `Job`.
        inputs: fingerprints besides the recipe's.
        tokenizer: the tokenizer of a model for text, exported with the model.
        parent: the run from which the model comes.
        summary: what result.json holds besides the settings.
    """
    # An optimizer chooses kernels by the device of its parameters.
    model.to(local_device())
    optimizer = build_optimizer(model, recipe.optimizer, phases[0].hyperparameters)
    # Once a step, for the metrics.
    noise_meter = partial(
        GradientNoiseScale, optimizer=optimizer if recipe.engine.noise_detail else None, every=None, window=1
    )

    def export(finished: nn.Module, target: Path) -> None:
        kind: Any = finished
        kind.save(target)
        if tokenizer is not None:
            save_tokenizer(tokenizer, target, kind.max_positions)

    return Job(
        model=model,
        optimizer=optimizer,
        phases=phases,
        held_out=held_out,
        seed=recipe.seed,
        inputs=fingerprints(recipe, run, **inputs),
        max_grad_norm=recipe.max_grad_norm,
        execution=recipe.engine,
        score=score,
        export=export,
        summary={**_summary(recipe, phases, model), "parent": parent, **summary},
        noise_meter=noise_meter,
        squares=squares,
    )


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


def _summary(recipe: Recipe, phases: list[Phase], model: nn.Module) -> dict[str, Any]:
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


def fresh(make: Callable[[], Model]) -> Model:
    """Makes the model with `make`; InputError if its shape is impossible, or too large for the memory."""
    try:
        # The system allocates memory that it does not have, and kills the process that uses it: so a model without
        # content comes first.
        with torch.device("meta"):
            needed = sum(parameter.numel() * parameter.element_size() for parameter in make().parameters())
        if needed > half_of_memory():
            raise InputError(
                f"its parameters take {needed / 2**30:,.1f} GiB, more than half of this machine's memory; choose "
                "smaller settings of model, or of what its shape follows from, such as phases.0.image_size"
            )
        return make()
    # torch raises RuntimeError if there is no room for a model.
    except (ValueError, RuntimeError) as error:
        raise InputError(f"model: {' '.join(str(error).split())}") from None
