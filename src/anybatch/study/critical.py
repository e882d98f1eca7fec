"""From the losses of branches to a critical batch, its course over training, and the ramp that follows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anybatch.numbers import finite


@dataclass(frozen=True)
class Excess:
    """How far a branch at `factor` times the batch ended above branch 1, with the standard error of the difference."""

    factor: int
    mean: float
    error: float


@dataclass(frozen=True)
class CriticalBatch:
    """The largest batch that loses nothing, after `examples` of training.

    `low`: the largest batch that is shown to be within the tolerance; the base batch if none larger is. `high`: the
        smallest that is shown to be beyond it; None if none is. `value`: the batch at which the loss crosses the
        tolerance, on a line over the logarithm of the batch; None if no branch crossed it.
    """

    examples: int
    low: int
    value: float | None
    high: int | None
    excesses: Sequence[Excess]


def excess(factor: int, branch: Sequence[float], base: Sequence[float]) -> Excess:
    """Returns the mean difference of two branches' held-out losses after the same examples, and its standard error."""
    differences = [one - other for one, other in zip(branch, base, strict=True)]
    mean = math.fsum(differences) / len(differences)
    if not math.isfinite(mean):
        return Excess(factor, math.inf, 0.0)
    if len(differences) < 2:
        return Excess(factor, mean, math.inf)
    variance = math.fsum((each - mean) ** 2 for each in differences) / (len(differences) - 1)
    return Excess(factor, mean, math.sqrt(variance / len(differences)))


def critical_batch(
    examples: int, batch_size: int, base_loss: float, excesses: Sequence[Excess], tolerance: float
) -> CriticalBatch:
    """Computes the critical batch at one point of training, from branches at growing factors of `batch_size`.

    A branch is within the tolerance if its excess plus two standard errors is. It is beyond the tolerance if its
    excess minus two standard errors is.

    Source: Merrill et al. 2025, arXiv 2505.23971, section 3 (local recovery from branched training).

    Example:
        >>> branches = [Excess(2, 0.001, 0.001), Excess(4, 0.009, 0.001), Excess(8, 0.032, 0.001)]
        >>> found = critical_batch(1000, 16, 3.0, branches, 0.01)
        >>> found.low, round(found.value, 1), found.high
        (32, 66.0, 128)
    """
    bound = tolerance * min(1.0, abs(base_loss))
    low, high, value = batch_size, None, None
    before = Excess(1, 0.0, 0.0)
    for each in sorted(excesses, key=lambda one: one.factor):
        if high is None and each.mean + 2 * each.error <= bound:
            low = each.factor * batch_size
        if high is None and each.mean - 2 * each.error > bound:
            high = each.factor * batch_size
        if value is None and each.mean > bound:
            share = (bound - before.mean) / (each.mean - before.mean) if math.isfinite(each.mean) else 0.0
            value = batch_size * before.factor * (each.factor / before.factor) ** min(max(share, 0.0), 1.0)
        before = each
    if value is not None:
        value = max(value, float(low))
        value = value if high is None else min(value, float(high))
    return CriticalBatch(examples, low, value, high, tuple(excesses))


def power_law(points: Sequence[CriticalBatch]) -> tuple[float, float] | None:
    """Fits (a, p) of the critical batch a * examples^p, by least squares of logarithms; None for under two values."""
    known = [(math.log(point.examples), math.log(point.value)) for point in points if point.value and point.examples]
    if len(known) < 2:
        return None
    x = math.fsum(one for one, _ in known) / len(known)
    y = math.fsum(other for _, other in known) / len(known)
    spread = math.fsum((one - x) ** 2 for one, _ in known)
    if spread == 0:
        return None
    p = math.fsum((one - x) * (other - y) for one, other in known) / spread
    return math.exp(y - p * x), p


def ramp(points: Sequence[CriticalBatch], batch_size: int, num_examples: int) -> list[tuple[float, int]]:
    """Returns (share, batch) of the ramp that follows the measured points.

    From each point on, it takes the largest doubling of `batch_size` that is shown to lose nothing there. The batch
    never shrinks, and does not grow before the first point.

    Example:
        >>> points = [CriticalBatch(100, 16, 20.0, 32, ()), CriticalBatch(400, 64, 70.0, 128, ())]
        >>> ramp(points, 16, 1000)
        [(0.4, 16), (0.6, 64)]
    """
    stages: list[tuple[float, int]] = [(0.0, batch_size)]
    for point in sorted(points, key=lambda one: one.examples):
        batch = batch_size * 2 ** max(0, math.floor(math.log2(point.low / batch_size)))
        if batch > stages[-1][1] and point.examples < num_examples:
            stages.append((point.examples / num_examples, batch))
    ends = [start for start, _ in stages[1:]] + [1.0]
    return [(end - start, batch) for (start, batch), end in zip(stages, ends, strict=True)]


def table(points: Sequence[CriticalBatch]) -> list[Mapping[str, object]]:
    """Returns JSON values, one row a point."""
    return [
        {
            "examples": point.examples,
            "low": point.low,
            "value": point.value,
            "high": point.high,
            "excess": [
                {"factor": one.factor, "mean": finite(one.mean), "error": finite(one.error)} for one in point.excesses
            ],
        }
        for point in points
    ]
