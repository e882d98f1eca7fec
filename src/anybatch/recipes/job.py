"""From what a kind of recipe brings to the engine's job, which takes the rest from the settings that all have."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from anybatch.engine import Job, Phase
from anybatch.engine.devices import local_device
from anybatch.engine.job import Scores
from anybatch.environment import half_of_memory
from anybatch.errors import InputError
from anybatch.optim.kernels.library import squares
from anybatch.recipes.optimizers import build_optimizer
from anybatch.recipes.recipe import Recipe
from anybatch.scaling import GradientNoiseScale

Model = TypeVar("Model", bound=nn.Module)


def job_of(
    recipe: Recipe,
    model: nn.Module,
    phases: list[Phase],
    *,
    held_out: Any,
    inputs: dict[str, str],
    score: Callable[[nn.Module], Scores],
    export: Callable[[nn.Module, Path], None],
    summary: dict[str, Any],
) -> Job:
    """The job, its model where this process computes; arguments as the fields of `Job`."""
    # An optimizer asks for the kernels of the device that its parameters are on.
    model.to(local_device())
    optimizer = build_optimizer(model, recipe.optimizer, phases[0].hyperparameters)
    # Once a step, whose numbers go into the metrics.
    noise_meter = partial(
        GradientNoiseScale, optimizer=optimizer if recipe.engine.noise_detail else None, every=None, window=1
    )
    return Job(
        model=model,
        optimizer=optimizer,
        phases=phases,
        held_out=held_out,
        seed=recipe.seed,
        inputs=inputs,
        max_grad_norm=recipe.max_grad_norm,
        execution=recipe.engine,
        score=score,
        export=export,
        summary=summary,
        noise_meter=noise_meter,
        squares=squares,
    )


def fresh(make: Callable[[], Model]) -> Model:
    """The model that `make` makes; InputError where its shape is impossible, or too large for the memory."""
    try:
        # The system hands out memory that it does not have, and ends who uses it: first a model without content.
        with torch.device("meta"):
            needed = sum(parameter.numel() * parameter.element_size() for parameter in make().parameters())
        if needed > half_of_memory():
            raise InputError(
                f"its parameters take {needed / 2**30:,.1f} GiB, more than half of this machine's memory; choose "
                "smaller settings of model, or of what its shape follows from, such as phases.0.image_size"
            )
        return make()
    # torch says with a RuntimeError that there is no room for a model.
    except (ValueError, RuntimeError) as error:
        raise InputError(f"model: {' '.join(str(error).split())}") from None
