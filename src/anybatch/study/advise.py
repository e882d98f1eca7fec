"""The command `anybatch advise`: short ordinary runs of a recipe, turned into advice about batches."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path
from typing import Any

from anybatch.errors import Failed, InputError
from anybatch.recipes import Recipe
from anybatch.recipes.phases import scaled_phase
from anybatch.runs import Run
from anybatch.scaling import NoiseScale, noise_scale
from anybatch.study.advice import candidates, growth, lost_rate, nearly_free_batch
from anybatch.study.execution import with_shared_text
from anybatch.study.measuring import Stage, Trainer, branch, epoch_examples, kept_or_removed, staged

FEWEST_STEPS = 16
_RANGE_STEPS = 40
# The learning rates of the range test, as multiples of the tested one.
_RANGE = (0.25, 16.0)
# Micro-batches a step, if the model allows: enough small gradients for a steady mean, at little cost.
_MICRO_BATCHES = 4
# Adam-like optimizers, whose updates are preconditioned by v.
_PRECONDITIONED = ("lamb", "adamw", "adam")
_PLAIN = itemgetter("gradient_square", "noise_trace")


def advise(
    recipe: Recipe,
    num_steps: int,
    trainer: Trainer,
    settings: Sequence[str] = (),
    folder: Path | None = None,
) -> dict[str, Any]:
    """Trains `recipe` at its reference batch, measures the noise, and tests the nearly free batch's learning rate.

    These are ordinary runs of the engine: on its device, in its precision, cut over its ranks. The first quarter of
    the steps, in which a new model changes most, is not measured. Returns JSON values, save for infinite ones.

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
    with kept_or_removed(folder) as kept:
        place = Path(kept)
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
        seen = run.metrics("noise")[num_steps // 4 :]
        if len(seen) < FEWEST_STEPS // 2:
            raise InputError(f"{recipe.name}: the loss was lost at the reference's own rate: {len(seen)} finite steps")
        plain = _scale(seen, _PLAIN)
        known = [event for event in seen if "preconditioned" in event]
        adam_like = recipe.optimizer.name in _PRECONDITIONED and len(known) >= 3
        early, late = (_scale(part, _PLAIN) for part in (seen[: len(seen) // 2], seen[len(seen) // 2 :]))
        layers = [event["layers"] for event in seen]
        found = candidates(recipe, plain, epoch, settings)
        free = nearly_free_batch(plain.low, reference)
        return {
            "recipe": recipe.name,
            "optimizer": recipe.optimizer.name,
            "reference_batch_size": reference,
            "measured_batch_size": batch_size,
            "num_steps": num_steps,
            "critical_batch": plain.value if math.isfinite(plain.value) else plain.low,
            "nearly_free_batch": free,
            "noise_scale": asdict(plain),
            "preconditioned_noise_scale": asdict(_scale(known, itemgetter("preconditioned"))) if adam_like else None,
            "layers": {name: asdict(_scale(layers, itemgetter(name))) for name in layers[0]},
            "growth": growth(early, late, reference, num_steps),
            "candidates": found,
            "rate_range": _range_test(recipe, run, stage, min(free, epoch), place, trainer),
        }


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


def _range_test(
    recipe: Recipe, run: Run, stage: Stage, batch_size: int, place: Path, trainer: Trainer
) -> dict[str, Any]:
    """Continues `run` while the learning rate grows from a quarter of the rule's to 16 times it."""
    stages = [stage, Stage(_RANGE_STEPS, batch_size, _RANGE)]
    testing = staged(recipe, stages, 0, noise_every=0, num_evals=1, num_trust_ratios=1)
    folder, first = place / "range", stage.num_steps
    if not Run(folder).recipe_file.exists():
        branch(run, first, testing, folder)
    # A loss that stays lost ends the run. One step short of its end, it is neither scored nor exported.
    with suppress(Failed):
        trainer.to(testing, folder, first + _RANGE_STEPS - 1, f"{recipe.name}: range test at batch {batch_size}")
    points = [(event["lr"], event["loss"]) for event in Run(folder).metrics("train")]
    return lost_rate(points, scaled_phase(testing, 1, 0).lr)
