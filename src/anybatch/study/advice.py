"""From a noise scale to batches: nearly free, doubling the examples, and what to type. Pure functions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from anybatch.errors import InputError
from anybatch.recipes import Recipe
from anybatch.recipes.change import as_options
from anybatch.scaling import NoiseScale, examples_at

# Up to this share of the critical batch, a run needs at most a quarter more examples than the smallest batch.
NEARLY_FREE = 1 / 4
_SMALLEST_SHARE, _LARGEST_SHARE = 1 / 32, 8
_MOST_CANDIDATES = 10
_LENGTHS = ("reference.num_examples", "reference.num_epochs")


@dataclass(frozen=True)
class Candidate:
    """One batch. `multiplier`: its examples over the reference's, and the same for the ends of the interval.

    `speed_up`: the reference's steps over this batch's.
    """

    batch_size: int
    lr: float
    warmup_steps: int
    num_steps: int
    num_examples: int
    multiplier: float
    multiplier_low: float
    multiplier_high: float
    speed_up: float
    nearly_free: bool
    command: str


def nearly_free_batch(noise: NoiseScale, reference_batch: int) -> int:
    """Returns the largest batch (the reference's, halved or doubled) up to a quarter of the noise scale's lower end.

    A larger batch is not known to be nearly free: a short run leaves the noise scale open by a factor of two.
    """
    exponent = math.floor(math.log2(max(noise.low * NEARLY_FREE, 2) / reference_batch))
    return max(2, math.floor(reference_batch * 2.0**exponent))


def candidates(recipe: Recipe, noise: NoiseScale, epoch_examples: int, settings: Sequence[str] = ()) -> list[Candidate]:
    """Returns each batch that the warm-up rule allows, with its settings by the rules and E(B) = E_min (1 + B/B_crit).

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
    free = nearly_free_batch(noise, reference.batch_size)
    # The advice changes only the length; everything else is as measured.
    kept = [each for each in settings if each.partition("=")[0] not in _LENGTHS]
    own_settings = as_options(kept)
    # The recipe's length may be in epochs, here or before it was changed.
    in_epochs = reference.num_epochs is not None or any(each.startswith("reference.num_epochs") for each in settings)
    epochs = " --set reference.num_epochs=null" if in_epochs else ""
    found = []
    for exponent in range(-10, 25):
        batch_size = round(reference.batch_size * 2.0**exponent)
        if not max(2.0, scale * _SMALLEST_SHARE) <= batch_size <= scale * _LARGEST_SHARE or batch_size > epoch_examples:
            continue

        def multiplier(critical: float, batch_size: int = batch_size) -> float:
            return examples_at(1.0, reference.batch_size, batch_size, critical)

        factor = multiplier(scale)
        ends = sorted((multiplier(max(noise.low, 1e-9)), multiplier(noise.high), factor))
        num_examples = round(own * factor)
        longer = replace(reference, num_examples=num_examples, num_epochs=None)
        try:
            scaled = longer.at(batch_size)
        # The warm-up would take the whole run: the rule does not cover this batch.
        except ValueError:
            continue
        found.append(
            Candidate(
                batch_size=batch_size,
                lr=scaled.lr,
                warmup_steps=scaled.warmup_steps,
                num_steps=scaled.num_steps,
                num_examples=num_examples,
                multiplier=factor,
                multiplier_low=ends[0],
                multiplier_high=ends[-1],
                speed_up=batch_size / reference.batch_size / factor,
                nearly_free=batch_size <= free,
                command=f"anybatch train {recipe.name} --batch-size {batch_size} "
                f"--set reference.num_examples={num_examples}{epochs}{own_settings}",
            )
        )
    return found[-_MOST_CANDIDATES:]


@dataclass(frozen=True)
class Growth:
    """The noise scale early and late in the measurement; `grows` if the intervals do not overlap."""

    early: NoiseScale
    late: NoiseScale

    @property
    def grows(self) -> bool:
        return self.late.low > self.early.high

    def batches(self, reference_batch: int) -> tuple[int, int]:
        """Returns the nearly free batch of each part, for two phases."""
        return nearly_free_batch(self.early, reference_batch), nearly_free_batch(self.late, reference_batch)
