"""Previews a recipe: its phases, steps and learning rates, and what they would take here."""

import tempfile
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from anybatch.engine.job import Phase
from anybatch.engine.preview import preview
from anybatch.recipes.change import with_absolute_paths, with_stand_in
from anybatch.recipes.optimizers import MOMENTS
from anybatch.recipes.recipe import Recipe
from anybatch.recipes.tasks import build
from anybatch.runs import Run

_SIZES = ("sequence_length", "image_size")
_COLUMNS = 64


def preview_recipe(recipe: Recipe, num_ranks: int = 1) -> dict[str, Any]:
    """Returns what `recipe` would do on `num_ranks` processes like this one; JSON values only.

    Nothing is trained. In every phase, one micro-batch (or a part of it that is large enough to time) and one
    optimizer step run at learning rate 0, on a model that is thrown away. Times exclude evaluation, checkpoints, and
    communication between ranks.

    Raises:
        InputError: as training would.
    """
    with tempfile.TemporaryDirectory() as scratch:
        job = build(with_absolute_paths(with_stand_in(recipe)), Run(Path(scratch)))
        measured = preview(job, num_ranks)
        costs = measured.costs
    phases = [
        {
            "batch_size": phase.global_batch_size,
            **{name: value for name in _SIZES if (value := getattr(settings, name, None)) is not None},
            "num_steps": phase.num_steps,
            "num_examples": phase.num_examples,
            "lr": phase.lr,
            "warmup_steps": phase.warmup_steps,
            "hyperparameters": {name: value for name, value in phase.hyperparameters.items() if name != "lr"},
            "carry_over": phase.carry_over,
            "micro_batch_size": cost.micro_batch_size,
            "activation_bytes": cost.activation_bytes,
            "step_s": cost.step_s,
            "time_s": cost.step_s * phase.num_steps,
        }
        for settings, phase, cost in zip(recipe.phases, job.phases, costs, strict=True)
    ]
    shards = num_ranks if recipe.engine.parallel == "fsdp" else 1
    kept = sum(measured.state_bytes.values()) / shards
    return {
        "recipe": recipe.name,
        "optimizer": recipe.optimizer.name,
        "fixed": [
            *(name for name in MOMENTS if name in recipe.optimizer.options),
            *(["weight decay"] if recipe.optimizer.weight_decay is not None else []),
        ],
        "reference": {"batch_size": recipe.reference.batch_size, "rule": recipe.reference.rule},
        "inferred": list(recipe.inferred),
        "stand_in": recipe.data.stand_in,
        "num_ranks": num_ranks,
        "phases": phases,
        "num_steps": job.num_steps,
        "num_examples": job.num_examples,
        "parameters": sum(parameter.numel() for parameter in job.model.parameters()),
        "state_bytes": measured.state_bytes,
        "memory_bytes_a_rank": round(kept + max(cost.activation_bytes for cost in costs)),
        "time_s": sum(cost.step_s * phase.num_steps for phase, cost in zip(job.phases, costs, strict=True)),
        "learning_rates": sampled_rates(job.phases),
    }


def sampled_rates(phases: Sequence[Phase], count: int = _COLUMNS) -> list[dict[str, float]]:
    """Returns the learning rates of `count` steps (all, if there are fewer), spread evenly over all phases."""
    ends = list(accumulate(phase.num_steps for phase in phases))
    rates = []
    for step in map(round, np.linspace(0, ends[-1] - 1, min(ends[-1], count))):
        number = bisect_right(ends, step)
        phase = phases[number]
        rates.append({"step": step + 1, "lr": phase.lr * phase.schedule(step - (ends[number] - phase.num_steps))})
    return rates
