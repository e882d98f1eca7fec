"""A short learning-rate range test: how far above a rate the loss begins to rise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from anybatch.engine import Job
from anybatch.study.noise_run import backward, micro_batch_sizes, set_rate, take_step

# The rate goes up by this factor altogether, from a quarter of the rate that is tested.
_FACTOR = 64.0
_BELOW = 4.0
# The loss, averaged over some steps, is lost where it is this much above its best, and by more than its own scatter:
# that of a batch of a few examples is larger than any tenth.
_LOST = 1.1
_DEVIATIONS = 4.0
_SMOOTHING = 0.6


@dataclass(frozen=True)
class RateRange:
    """`lost_at` is the rate at which the loss was lost, None where it never was, up to `highest`."""

    tested: float
    lost_at: float | None
    highest: float

    @property
    def margin(self) -> float:
        """How many times the tested rate the lost one is; infinite where none was."""
        return math.inf if self.lost_at is None else self.lost_at / self.tested


def rate_range(job: Job, lr: float, batch_size: int, largest_micro_batch: int, start: int, num_steps: int) -> RateRange:
    """Trains on from where `job` stands, the rate growing exponentially from lr/4 to 16 lr, until the loss is lost.

    The job is of no use for anything else afterwards.

    Args:
        start: position of the first example.

    Source: Smith 2017, arXiv 1506.01186, section 3.3.
    """
    sizes = micro_batch_sizes(batch_size, largest_micro_batch)
    examples = job.phases[0].examples
    job.model.train()
    best = smooth = math.inf
    losses: list[float] = []
    rate = lr / _BELOW
    for step in range(num_steps):
        rate = lr / _BELOW * _FACTOR ** (step / max(1, num_steps - 1))
        loss = backward(job.model, examples, start + step * batch_size, sizes)
        smooth = loss if smooth == math.inf else _SMOOTHING * smooth + (1 - _SMOOTHING) * loss
        best = min(best, smooth)
        losses.append(loss)
        if not math.isfinite(loss) or smooth > _LOST * best + _DEVIATIONS * _scatter(losses):
            return RateRange(lr, rate, rate)
        set_rate(job.optimizer, rate)
        take_step(job)
    return RateRange(lr, None, rate)


def _scatter(losses: Sequence[float]) -> float:
    """The standard deviation of the smoothed loss, from the steps between neighbours, which a trend hardly moves.

    Neighbours of independent values with deviation s differ by a median of 0.954 s; smoothing leaves
    sqrt((1 - a) / (1 + a)) of s.
    """
    if len(losses) < 2:
        return 0.0
    deviation = median(abs(after - before) for before, after in pairwise(losses)) / 0.954
    return deviation * math.sqrt((1 - _SMOOTHING) / (1 + _SMOOTHING))
