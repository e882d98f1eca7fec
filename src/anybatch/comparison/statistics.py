"""Statistics of few repetitions: intervals, paired differences, lines, and the critical batch."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np

from anybatch.scaling.student_t import t_cumulative, t_quantile

FEWEST_FOR_P_VALUES = 5


@dataclass(frozen=True)
class Interval:
    """A mean of `count` values and its 95 % interval by Student's t; no interval for a single value."""

    mean: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class CriticalBatch:
    """E = e_min (1 + B / b_crit), in examples, with 95 % intervals; an end that the data do not bound is None.

    The mean of `b_crit` is infinite if the examples do not grow with the batch.
    """

    e_min: Interval
    b_crit: Interval
    spread: float


def mean(values: Iterable[float | None]) -> float | None:
    """Returns the mean of the known values; None if there are none."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def mean_interval(values: Sequence[float], least: float = -math.inf, most: float = math.inf) -> Interval:
    """Returns the mean of independent values of one distribution, assumed normal.

    Args:
        least, most: bounds of the values, at which the interval is cut.
    """
    middle, n = fmean(values), len(values)
    if n < 2:
        return Interval(middle, None, None, n)
    half = t_quantile(0.975, n - 1) * stdev(values) / math.sqrt(n)
    return Interval(middle, max(least, middle - half), min(most, middle + half), n)


def paired_p_value(differences: Sequence[float]) -> float | None:
    """Returns the two-sided p-value of the paired t-test; None below five pairs, when it means next to nothing."""
    n = len(differences)
    if n < FEWEST_FOR_P_VALUES:
        return None
    deviation = stdev(differences)
    if deviation == 0:
        return 1.0 if fmean(differences) == 0 else 0.0
    return 2 * (1 - t_cumulative(abs(fmean(differences)) / (deviation / math.sqrt(n)), n - 1))


def line_through(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Returns (intercept, slope) by least squares."""
    slope, intercept = np.polyfit(np.asarray(xs), np.asarray(ys), 1)
    return float(intercept), float(slope)


def fit_critical_batch(batches: Sequence[float], examples: Sequence[float]) -> CriticalBatch | None:
    """Fits E = a + s B with errors in proportion to E; B_crit = a / s with Fieller's interval.

    With errors in proportion, the fit is least squares of (a + s B) / E - 1, iterated with the fitted E as weights.
    The interval of the ratio is exact for normal errors, and honest if the slope may be zero: then the upper end is
    None, which means 'no critical batch within reach of these data'.

    Returns None below three measurements or two batches, if a target was met without examples, or if no positive E_min
    fits.
    """
    b, e = np.asarray(batches, dtype=float), np.asarray(examples, dtype=float)
    if len(b) < 3 or len(set(batches)) < 2 or (e <= 0).any():
        return None
    fitted = e
    for _ in range(20):
        design = np.stack([1 / fitted, b / fitted], axis=1)
        coefficients, *_ = np.linalg.lstsq(design, e / fitted, rcond=None)
        now = design * fitted[:, None] @ coefficients
        if (now <= 0).any():
            return None
        fitted = now
    a, s = map(float, coefficients)
    if a <= 0:
        return None
    freedom = len(b) - 2
    residuals = e / fitted - 1
    variance = float(residuals @ residuals) / freedom
    inverse = np.linalg.inv(design.T @ design) * variance
    t = t_quantile(0.975, freedom)
    half = t * math.sqrt(inverse[0, 0])
    e_min = Interval(a, a - half, a + half, len(b))
    low, high = _fieller(a, s, inverse, t)
    return CriticalBatch(e_min, Interval(a / s if s > 0 else math.inf, low, high, len(b)), math.sqrt(variance))


def _fieller(a: float, s: float, covariance: Any, t: float) -> tuple[float | None, float | None]:
    """Returns the r > 0 with (a - r s)^2 <= t^2 var(a - r s)."""
    quadratic = s * s - t * t * covariance[1, 1]
    middle = a * s - t * t * covariance[0, 1]
    constant = a * a - t * t * covariance[0, 0]
    discriminant = middle * middle - quadratic * constant
    if discriminant < 0 or quadratic == 0:
        return None, None
    roots = sorted(float(middle + sign * math.sqrt(discriminant)) / float(quadratic) for sign in (-1, 1))
    if quadratic > 0:
        return max(0.0, roots[0]), (roots[1] if s > 0 else None)
    # The slope may be zero: every ratio above the positive root is possible.
    return max(0.0, roots[1]), None
