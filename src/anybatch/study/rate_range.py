"""The result of a learning-rate range test: how far above a learning rate the loss begins to rise. Pure functions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

# The loss, averaged over some steps, is lost if it is this much above its best, and above it by more than its scatter:
# for a batch of a few examples, the scatter is larger than a tenth.
_LOST = 1.1
_DEVIATIONS = 4.0
_SMOOTHING = 0.6


@dataclass(frozen=True)
class RateRange:
    """`lost_at` is the learning rate at which the loss was lost, None if it never was, up to `highest`."""

    tested: float
    lost_at: float | None
    highest: float

    @property
    def margin(self) -> float:
        """Returns the lost learning rate over the tested one; infinite if none was lost."""
        return math.inf if self.lost_at is None else self.lost_at / self.tested


def lost_rate(points: Sequence[tuple[float, float | None]], tested: float) -> RateRange:
    """Finds the learning rate at which the loss was lost.

    Args:
        points: (learning rate, loss) of every step of a run with a growing learning rate; the loss is None if it was
            not finite.
        tested: the learning rate in the middle of the range.

    Source: Smith 2017, arXiv 1506.01186, section 3.3.
    """
    best = smooth = math.inf
    losses: list[float] = []
    for rate, loss in points:
        if loss is None or not math.isfinite(loss):
            return RateRange(tested, rate, rate)
        smooth = loss if smooth == math.inf else _SMOOTHING * smooth + (1 - _SMOOTHING) * loss
        best = min(best, smooth)
        losses.append(loss)
        if smooth > _LOST * best + _DEVIATIONS * _scatter(losses):
            return RateRange(tested, rate, rate)
    return RateRange(tested, None, points[-1][0] if points else tested)


def _scatter(losses: Sequence[float]) -> float:
    """Estimates the smoothed loss's standard deviation from steps between neighbors, which a trend hardly changes.

    Neighbors of independent values with deviation s differ by a median of 0.954 s; smoothing leaves sqrt((1 - a) / (1
    + a)) of s.
    """
    if len(losses) < 2:
        return 0.0
    deviation = median(abs(after - before) for before, after in pairwise(losses)) / 0.954
    return deviation * math.sqrt((1 - _SMOOTHING) / (1 + _SMOOTHING))
