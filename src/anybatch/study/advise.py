"""The command `anybatch advise`: short ordinary runs of a recipe, turned into advice about batches."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from anybatch.errors import Failed, InputError
from anybatch.numbers import null_for_nonfinite
from anybatch.recipes import Recipe
from anybatch.recipes.phases import scaled_phase
from anybatch.runs import Run
from anybatch.scaling import NoiseScale, noise_scale
from anybatch.study.advice import Candidate, Growth, candidates, nearly_free_batch
from anybatch.study.execution import with_shared_text
from anybatch.study.measuring import (
    Stage,
    Trainer,
    branch,
    epoch_examples,
    events,
    kept_or_removed,
    staged,
)
from anybatch.study.rate_range import RateRange, lost_rate

FEWEST_STEPS = 16
_RANGE_STEPS = 40
# The learning rates of the range test, as multiples of the tested one.
_RANGE = (0.25, 16.0)
# Micro-batches a step, if the model allows: enough small gradients for a steady mean, at little cost.
_MICRO_BATCHES = 4
# Adam-like optimizers, whose updates are preconditioned by v.
_PRECONDITIONED = ("lamb", "adamw", "adam")
_PLAIN = itemgetter("gradient_square", "noise_trace")


@dataclass(frozen=True)
class Advice:
    """All measurements and their results. `measured_batch`: the batch at which the noise was measured."""

    recipe: str
    optimizer: str
    reference_batch: int
    measured_batch: int
    num_steps: int
    noise: NoiseScale
    preconditioned: NoiseScale | None
    layers: Mapping[str, NoiseScale]
    growth: Growth
    candidates: Sequence[Candidate]
    nearly_free: int
    rates: RateRange


def advise(
    recipe: Recipe,
    num_steps: int,
    trainer: Trainer,
    settings: Sequence[str] = (),
    folder: Path | None = None,
) -> Advice:
    """Trains `recipe` at its reference batch, measures the noise, and tests the nearly free batch's learning rate.

    These are ordinary runs of the engine: on its device, in its precision, cut over its ranks. The first quarter of
    the steps, in which a new model changes most, is not measured.

    Args:
        settings: FIELD=VALUE with which the recipe was changed; the commands to paste repeat them.
        folder: the folder that keeps the runs; None: a temporary one.

    Raises:
        InputError: too few steps, data or recipe are wrong, or the run diverged.
        Stopped: a signal asked for it.
    """
    if num_steps < FEWEST_STEPS:
        raise InputError(f"--steps {num_steps}: must be at least {FEWEST_STEPS}")
    reference = recipe.reference.batch_size
    batch_size = _measured_batch(recipe)
    with kept_or_removed(folder) as place:
        recipe = with_shared_text(recipe, place)
        epoch = epoch_examples(recipe)
        length = recipe.reference.length(epoch)
        num_steps = min(num_steps, length // batch_size)
        if num_steps < FEWEST_STEPS:
            raise InputError(f"{recipe.name} has {num_steps} steps at batch {batch_size}: {FEWEST_STEPS} are needed")
        stage = Stage(num_steps, batch_size)
        watched = {"noise_every": 1, "noise_detail": True, "num_evals": 1, "num_trust_ratios": 1}
        measuring = staged(recipe, [stage], length, **watched, **_cut(recipe, batch_size))
        title = f"{recipe.name}: measuring at batch {batch_size}"
        try:
            run = trainer.to(measuring, place / "noise", num_steps, title)
        except Failed as error:
            raise InputError(f"{recipe.name}: the loss was lost at the reference's own rate: {error}") from None
        seen = events(run, "noise")[num_steps // 4 :]
        if len(seen) < FEWEST_STEPS // 2:
            raise InputError(f"{recipe.name}: the loss was lost at the reference's own rate: {len(seen)} finite steps")
        plain = _scale(seen, _PLAIN)
        known = [event for event in seen if "preconditioned" in event]
        adam_like = recipe.optimizer.name in _PRECONDITIONED and len(known) >= 3
        found = candidates(recipe, plain, epoch, settings)
        free = nearly_free_batch(plain, reference)
        return Advice(
            recipe=recipe.name,
            optimizer=recipe.optimizer.name,
            reference_batch=reference,
            measured_batch=batch_size,
            num_steps=num_steps,
            noise=plain,
            preconditioned=_scale(known, itemgetter("preconditioned")) if adam_like else None,
            layers={name: _scale([event["layers"] for event in seen], itemgetter(name)) for name in seen[0]["layers"]},
            growth=Growth(_scale(seen[: len(seen) // 2], _PLAIN), _scale(seen[len(seen) // 2 :], _PLAIN)),
            candidates=found,
            nearly_free=free,
            rates=_range_test(recipe, run, stage, min(free, epoch), place, trainer),
        )


def _scale(seen: Sequence[Mapping[str, Any]], pair: Callable[[Mapping[str, Any]], Sequence[float]]) -> NoiseScale:
    squares, traces = zip(*(pair(event) for event in seen), strict=True)
    return noise_scale(squares, traces)


def _measured_batch(recipe: Recipe) -> int:
    """Returns the reference's batch, or its smallest multiple with two groups of BatchNorm: one gives one gradient."""
    batch_size = recipe.reference.batch_size
    if batch_size < 2:
        raise InputError(f"batch size {batch_size}: the noise scale needs at least two examples a step")
    group = getattr(recipe.model, "batch_norm_group", None)
    return batch_size if group is None else batch_size * math.ceil((group + 1) / batch_size)


def _cut(recipe: Recipe, batch_size: int) -> dict[str, Any]:
    """Returns the engine's micro-batches if they are small enough, otherwise a quarter of the batch."""
    size = recipe.engine.micro_batch_size
    quarter = max(1, batch_size // _MICRO_BATCHES)
    return {"micro_batch_size": quarter if size == "auto" else min(size, quarter)}


def _range_test(recipe: Recipe, run: Run, stage: Stage, batch_size: int, place: Path, trainer: Trainer) -> RateRange:
    """Continues `run` while the learning rate grows from a quarter of the rule's to 16 times it."""
    stages = [stage, Stage(_RANGE_STEPS, batch_size, _RANGE)]
    testing = staged(recipe, stages, 0, noise_every=0, num_evals=1, num_trust_ratios=1)
    folder, first = place / "range", stage.num_steps
    if not Run(folder).recipe_file.exists():
        branch(run, first, testing, folder)
    # A loss that stays lost ends the run. One step short of its end, it is neither scored nor exported.
    with suppress(Failed):
        trainer.to(testing, folder, first + _RANGE_STEPS - 1, f"{recipe.name}: range test at batch {batch_size}")
    points = [(event["lr"], event["loss"]) for event in events(Run(folder), "train")]
    return lost_rate(points, scaled_phase(testing, 1, 0).lr)


def to_json(advice: Advice) -> str:
    """Returns JSON text; null for a missing bound."""
    return json.dumps(
        null_for_nonfinite(
            {
                "recipe": advice.recipe,
                "optimizer": advice.optimizer,
                "reference_batch_size": advice.reference_batch,
                "measured_batch_size": advice.measured_batch,
                "num_steps": advice.num_steps,
                "critical_batch": advice.noise.value if math.isfinite(advice.noise.value) else advice.noise.low,
                "nearly_free_batch": advice.nearly_free,
                "noise_scale": asdict(advice.noise),
                "preconditioned_noise_scale": None if advice.preconditioned is None else asdict(advice.preconditioned),
                "layers": {name: asdict(layer) for name, layer in advice.layers.items()},
                "growth": {
                    "early": asdict(advice.growth.early),
                    "late": asdict(advice.growth.late),
                    "grows": advice.growth.grows,
                    "phases": _phases(advice) if advice.growth.grows else None,
                },
                "candidates": [asdict(candidate) for candidate in advice.candidates],
                "rate_range": {**asdict(advice.rates), "margin": advice.rates.margin},
            }
        ),
        indent=1,
    )


def _phases(advice: Advice) -> list[dict[str, Any]]:
    early, late = advice.growth.batches(advice.reference_batch)
    share = advice.num_steps / 2
    return [{"batch_size": early, "first_steps": round(share)}, {"batch_size": late}]
