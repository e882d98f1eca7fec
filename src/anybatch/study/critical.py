"""From the losses of branches to a critical batch, its course over training, and the ramp that follows."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from anybatch.comparison.statistics import line_through


def excess(factor: int, branch: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """Returns how far a branch at `factor` times the batch ended above branch 1, after the same examples.

    `mean` is the mean difference of their held-out losses, infinite if one was lost; `error` its standard error.
    """
    differences = [one - other for one, other in zip(branch, base, strict=True)]
    mean = fmean(differences)
    if not math.isfinite(mean):
        return {"factor": factor, "mean": math.inf, "error": 0.0}
    n = len(differences)
    return {"factor": factor, "mean": mean, "error": stdev(differences) / math.sqrt(n) if n > 1 else math.inf}


def critical_batch(
    examples: int, batch_size: int, base_loss: float, excesses: Sequence[Mapping[str, float]], tolerance: float
) -> dict[str, Any]:
    """Computes the largest batch that loses nothing after `examples` of training, from branches at growing factors.

    A branch is within the tolerance if its excess plus two standard errors is. It is beyond the tolerance if its
    excess minus two standard errors is.

    Returns:
        `low`: the largest batch that is shown to be within the tolerance; `batch_size` if none larger is. `high`: the
        smallest that is shown to be beyond it; None if none is. `value`: the batch at which the loss crosses the
        tolerance, on a line over the logarithm of the batch; None if no branch crossed it.

    Source: Merrill et al. 2025, arXiv 2505.23971, section 3 (local recovery from branched training).

    Example:
        >>> means = {2: 0.001, 4: 0.009, 8: 0.032}
        >>> branches = [{"factor": factor, "mean": mean, "error": 0.001} for factor, mean in means.items()]
        >>> found = critical_batch(1000, 16, 3.0, branches, 0.01)
        >>> found["low"], round(found["value"], 1), found["high"]
        (32, 66.0, 128)
    """
    bound = tolerance * min(1.0, abs(base_loss))
    low, high, value = batch_size, None, None
    before_factor, before_mean = 1.0, 0.0
    for each in sorted(excesses, key=lambda one: one["factor"]):
        factor, mean, error = each["factor"], each["mean"], each["error"]
        if high is None and mean + 2 * error <= bound:
            low = round(factor * batch_size)
        if high is None and mean - 2 * error > bound:
            high = round(factor * batch_size)
        if value is None and mean > bound:
            share = (bound - before_mean) / (mean - before_mean) if math.isfinite(mean) else 0.0
            value = batch_size * before_factor * (factor / before_factor) ** min(max(share, 0.0), 1.0)
        before_factor, before_mean = factor, mean
    if value is not None:
        value = min(max(value, float(low)), math.inf if high is None else float(high))
    return {"examples": examples, "low": low, "value": value, "high": high, "excess": list(excesses)}


def power_law(points: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    """Fits (a, p) of the critical batch a * examples^p, by least squares of logarithms; None for under two values."""
    known = [(math.log(one["examples"]), math.log(one["value"])) for one in points if one["value"] and one["examples"]]
    if len({x for x, _ in known}) < 2:
        return None
    intercept, p = line_through(*zip(*known, strict=True))
    return math.exp(intercept), p


def ramp(points: Sequence[Mapping[str, Any]], batch_size: int, num_examples: int) -> list[tuple[float, int]]:
    """Returns (share, batch) of the ramp that follows the measured points.

    From each point on, it takes the largest doubling of `batch_size` that is shown to lose nothing there. The batch
    never shrinks, and does not grow before the first point.

    Example:
        >>> ramp([{"examples": 100, "low": 16}, {"examples": 400, "low": 64}], 16, 1000)
        [(0.4, 16), (0.6, 64)]
    """
    stages: list[tuple[float, int]] = [(0.0, batch_size)]
    for point in sorted(points, key=lambda one: one["examples"]):
        batch = batch_size * 2 ** max(0, math.floor(math.log2(point["low"] / batch_size)))
        if batch > stages[-1][1] and point["examples"] < num_examples:
            stages.append((point["examples"] / num_examples, batch))
    ends = [start for start, _ in stages[1:]] + [1.0]
    return [(end - start, batch) for (start, batch), end in zip(stages, ends, strict=True)]
