"""The gradient noise scale, and what follows from it for the batch. Pure functions, without torch or NumPy.

If per-example gradients have mean G and covariance Sigma, the gradient of n examples has a mean square of |G|^2 +
tr(Sigma)/n. Norms at two sizes give both unknowns. B_simple = tr(Sigma)/|G|^2 is the batch at which noise and signal
are equal.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from anybatch.scaling.student_t import t_quantile


@dataclass(frozen=True)
class NoiseScale:
    """B_simple in examples, with its 95 % interval; `high` is infinite if the gradient is lost in its noise.

    `gradient_square` and `noise_trace` are the averages of |G|^2 and tr(Sigma) over `num_steps` steps.
    """

    value: float
    low: float
    high: float
    gradient_square: float
    noise_trace: float
    num_steps: int


def split_norms(
    small_square: float, small_inverse: float, large_square: float, large_inverse: float
) -> tuple[float, float]:
    """Returns unbiased estimates of (|G|^2, tr(Sigma)), from squared norms at two batch sizes.

        |G|^2 = (B |G_B|^2 - b |G_b|^2) / (B - b)        tr(Sigma) = (|G_b|^2 - |G_B|^2) / (1/b - 1/B)

    Args:
        small_square, large_square: |G_b|^2 and |G_B|^2, or means over several gradients.
        small_inverse, large_inverse: 1/b and 1/B, or the mean of 1/b over the same gradients.

    Raises:
        ValueError: 1/b is not above 1/B.

    Source: McCandlish et al. 2018, arXiv 1812.06162, appendix A.1.

    Example:
        >>> split_norms(small_square=3.0, small_inverse=1 / 4, large_square=2.0, large_inverse=1 / 8)
        (1.0, 8.0)
    """
    if not small_inverse > large_inverse > 0:
        raise ValueError(
            f"small_inverse={small_inverse}: must be above large_inverse={large_inverse}, which must be above 0: two "
            "batch sizes that differ"
        )
    trace = (small_square - large_square) / (small_inverse - large_inverse)
    return large_square - trace * large_inverse, trace


def noise_scale(gradient_squares: Sequence[float], noise_traces: Sequence[float]) -> NoiseScale:
    """Returns B_simple from the two unbiased estimates of several steps, each averaged by itself.

    The interval is a delete-one jackknife of the reciprocal |G|^2 / tr(Sigma). The trace is well known after few
    steps, so the reciprocal is nearly normal, while the ratio has a heavy tail. With n steps the interval is
    +- t(0.975, n - 1) standard errors, and its upper end is moved out for skewness. If the reciprocal's
    interval reaches zero, the noise scale has no upper bound.

    Raises:
        ValueError: fewer than 3 steps, or sequences of different lengths.

    Example:
        >>> found = noise_scale([1.0, 1.2, 0.8, 1.0], [50.0, 52.0, 48.0, 50.0])
        >>> found.value, round(found.low, 1), round(found.high, 1)
        (50.0, 41.0, 63.1)
    """
    count = len(gradient_squares)
    if count != len(noise_traces):
        raise ValueError(f"noise_traces has {len(noise_traces)} steps, gradient_squares {count}")
    if count < 3:
        raise ValueError(f"gradient_squares has {count} steps: an interval needs at least 3")
    square, trace = math.fsum(gradient_squares), math.fsum(noise_traces)
    mean_square, mean_trace = square / count, trace / count
    if trace <= 0:
        return NoiseScale(0.0, 0.0, math.inf, mean_square, mean_trace, count)
    reciprocal = square / trace
    without = [
        (square - own_square) / rest
        for own_square, own_trace in zip(gradient_squares, noise_traces, strict=True)
        if (rest := trace - own_trace) > 0
    ]
    if len(without) < count:
        return NoiseScale(1 / reciprocal if square > 0 else math.inf, 0.0, math.inf, mean_square, mean_trace, count)
    middle = math.fsum(without) / count
    error = math.sqrt((count - 1) / count * math.fsum((value - middle) ** 2 for value in without))
    reach = t_quantile(0.975, count - 1) * error
    # Squares are skewed to the right. This adds half of what an interval of the logarithm would add, as simulations
    # require.
    top = reciprocal + reach + reach**2 / (4 * max(reciprocal, reach))
    return NoiseScale(
        value=1 / reciprocal if reciprocal > 0 else math.inf,
        low=1 / top if top > 0 else math.inf,
        high=1 / (reciprocal - reach) if reciprocal - reach > 0 else math.inf,
        gradient_square=mean_square,
        noise_trace=mean_trace,
        num_steps=count,
    )


def examples_at(reference_examples: float, reference_batch: float, batch_size: float, critical_batch: float) -> float:
    """Returns the examples to the same loss at another batch: E(B) = E_min (1 + B / B_crit).

    Args:
        reference_examples: the examples that the run needs at `reference_batch`.
        critical_batch: B_crit, at which examples double; infinite if larger batches lose nothing.

    Source: McCandlish et al. 2018, arXiv 1812.06162, section 2.3.

    Example:
        >>> examples_at(1000, 0, 64, critical_batch=64)
        2000.0
    """
    return reference_examples * (1 + batch_size / critical_batch) / (1 + reference_batch / critical_batch)
