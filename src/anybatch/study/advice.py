"""From a noise scale to batches: nearly free, doubling the examples, and what to type; and a range test. Pure."""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

from anybatch.errors import InputError
from anybatch.recipes import Recipe
from anybatch.recipes.change import as_options
from anybatch.scaling import NoiseScale, examples_at

# Up to this share of the critical batch, a run needs at most a quarter more examples than the smallest batch.
NEARLY_FREE = 1 / 4
_SMALLEST_SHARE, _LARGEST_SHARE = 1 / 32, 8
_MOST_CANDIDATES = 10
_LENGTHS = ("reference.num_examples", "reference.num_epochs")
# The loss, averaged over some steps, is lost if it is this much above its best, and above it by more than its scatter:
# for a batch of a few examples, the scatter is larger than a tenth.
_LOST = 1.1
_DEVIATIONS = 4.0
_SMOOTHING = 0.6


def nearly_free_batch(least_noise_scale: float, reference_batch: int) -> int:
    """Returns the largest batch (the reference's, halved or doubled) up to a quarter of the noise scale's lower end.

    A larger batch is not known to be nearly free: a short run leaves the noise scale open by a factor of two.
    """
    exponent = math.floor(math.log2(max(least_noise_scale * NEARLY_FREE, 2) / reference_batch))
    return max(2, math.floor(reference_batch * 2.0**exponent))


def candidates(
    recipe: Recipe, noise: NoiseScale, epoch_examples: int, settings: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Returns each batch that the warm-up rule allows, with its settings by the rules and E(B) = E_min (1 + B/B_crit).

    `multiplier` is its examples over the reference's, with the same for the ends of the interval; `speed_up` the
    reference's steps over its steps; `command` the line to type.

    Args:
        settings: FIELD=VALUE with which the recipe was changed; the commands repeat them.

    Raises:
        InputError: the noise scale has neither an estimate nor a lower end.
    """
    scale = noise.value if math.isfinite(noise.value) else noise.low
    if not 0 < scale < math.inf:
        raise InputError("the gradient noise could not be told from the gradient: measure with more --steps")
    reference = recipe.reference
    own = reference.length(epoch_examples)
    free = nearly_free_batch(noise.low, reference.batch_size)
    # The advice changes only the length; everything else is as measured.
    own_settings = as_options([each for each in settings if each.partition("=")[0] not in _LENGTHS])
    # The recipe's length may be in epochs, here or before it was changed.
    in_epochs = reference.num_epochs is not None or any(each.startswith("reference.num_epochs") for each in settings)
    epochs = " --set reference.num_epochs=null" if in_epochs else ""
    found = []
    for exponent in range(-10, 25):
        batch_size = round(reference.batch_size * 2.0**exponent)
        if not max(2.0, scale * _SMALLEST_SHARE) <= batch_size <= scale * _LARGEST_SHARE or batch_size > epoch_examples:
            continue
        multiplier = partial(examples_at, 1.0, reference.batch_size, batch_size)
        factor = multiplier(scale)
        ends = sorted((multiplier(max(noise.low, 1e-9)), multiplier(noise.high), factor))
        num_examples = round(own * factor)
        try:
            scaled = replace(reference, num_examples=num_examples, num_epochs=None).at(batch_size)
        # The warm-up would take the whole run: the rule does not cover this batch.
        except ValueError:
            continue
        found.append(
            {
                "batch_size": batch_size,
                "lr": scaled.lr,
                "warmup_steps": scaled.warmup_steps,
                "num_steps": scaled.num_steps,
                "num_examples": num_examples,
                "multiplier": factor,
                "multiplier_low": ends[0],
                "multiplier_high": ends[-1],
                "speed_up": batch_size / reference.batch_size / factor,
                "nearly_free": batch_size <= free,
                "command": f"anybatch train {recipe.name} --batch-size {batch_size} "
                f"--set reference.num_examples={num_examples}{epochs}{own_settings}",
            }
        )
    return found[-_MOST_CANDIDATES:]


def growth(early: NoiseScale, late: NoiseScale, reference_batch: int, num_steps: int) -> dict[str, Any]:
    """Returns the noise scale early and late in the measurement, and two phases if their intervals do not overlap."""
    grows = late.low > early.high
    first, then = (nearly_free_batch(each.low, reference_batch) for each in (early, late))
    phases = [{"batch_size": first, "first_steps": round(num_steps / 2)}, {"batch_size": then}]
    return {"early": asdict(early), "late": asdict(late), "grows": grows, "phases": phases if grows else None}


def lost_rate(points: Sequence[tuple[float, float | None]], tested: float) -> dict[str, Any]:
    """Finds the learning rate at which the loss was lost: `lost_at`, None if it never was, up to `highest`.

    `margin` is that rate over the tested one; infinite if none was lost.

    Args:
        points: (learning rate, loss) of every step of a run with a growing learning rate; the loss is None if it was
            not finite.
        tested: the learning rate in the middle of the range.

    Source: Smith 2017, arXiv 1506.01186, section 3.3.
    """
    best = smooth = math.inf
    losses: list[float] = []
    lost_at, highest = None, tested
    for rate, loss in points:
        highest = rate
        lost = loss is None or not math.isfinite(loss)
        if loss is not None and not lost:
            smooth = loss if smooth == math.inf else _SMOOTHING * smooth + (1 - _SMOOTHING) * loss
            best = min(best, smooth)
            losses.append(loss)
            lost = smooth > _LOST * best + _DEVIATIONS * _scatter(losses)
        if lost:
            lost_at = rate
            break
    margin = math.inf if lost_at is None else lost_at / tested
    return {"tested": tested, "lost_at": lost_at, "highest": highest, "margin": margin}


def _scatter(losses: Sequence[float]) -> float:
    """Estimates the smoothed loss's standard deviation from steps between neighbors, which a trend hardly changes.

    Neighbors of independent values with deviation s differ by a median of 0.954 s; smoothing leaves sqrt((1 - a) / (1
    + a)) of s.
    """
    if len(losses) < 2:
        return 0.0
    deviation = median(abs(after - before) for before, after in pairwise(losses)) / 0.954
    return deviation * math.sqrt((1 - _SMOOTHING) / (1 + _SMOOTHING))
