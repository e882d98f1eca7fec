"""The noise scale from squared norms: unbiased parts, and an interval that holds what it says."""

import math
import random
from typing import Any

import pytest

from anybatch.scaling import examples_at, noise_scale, split_norms


def test_the_two_norms_give_back_what_they_were_made_of() -> None:
    square, trace = 0.7, 900.0
    small, large = square + trace / 4, square + trace / 64
    found = split_norms(small, 1 / 4, large, 1 / 64)
    assert found == pytest.approx((square, trace), rel=1e-12)


@pytest.mark.parametrize(("small", "large"), [(0.25, 0.25), (0.1, 0.2), (0.1, 0.0), (math.nan, 0.1)])
def test_sizes_that_do_not_differ_are_refused(small: Any, large: Any) -> None:
    with pytest.raises(ValueError, match="small_inverse"):
        split_norms(1.0, small, 1.0, large)


def test_a_gradient_lost_in_noise_has_no_upper_bound() -> None:
    found = noise_scale([0.1, -0.2, 0.15, -0.1], [10.0, 11.0, 9.0, 10.0])
    assert found.value == math.inf
    assert found.high == math.inf
    assert 0 < found.low < math.inf


def test_fewer_than_three_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 3"):
        noise_scale([1.0, 1.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="noise_traces has 2"):
        noise_scale([1.0, 1.0, 1.0], [1.0, 1.0])


def test_the_interval_narrows_with_the_square_root_of_the_steps() -> None:
    draw = random.Random(0)

    def width(count: Any) -> Any:
        squares = [draw.gauss(1, 0.2) for _ in range(count)]
        found = noise_scale(squares, [draw.gauss(50, 1) for _ in range(count)])
        return found.high - found.low

    assert 3 < width(50) / width(800) < 5.5


@pytest.mark.parametrize("squares", [[1.0, 1.2, 0.8, 1.1, 0.7], [0.3, -0.2, 0.4, 0.1, 0.0]])
def test_the_interval_by_hand(squares: Any) -> None:
    """Half a reach beyond the jackknife's on the upper side, as the docstring says; 2.776 is t(0.975, 4)."""
    traces = [50.0, 52.0, 48.0, 51.0, 49.0]
    reciprocal = sum(squares) / sum(traces)
    without = [(sum(squares) - s) / (sum(traces) - t) for s, t in zip(squares, traces, strict=True)]
    reach = 2.776445 * math.sqrt(4 / 5 * sum((value - sum(without) / 5) ** 2 for value in without))
    found = noise_scale(squares, traces)
    assert found.value == pytest.approx(1 / reciprocal, rel=1e-12)
    assert 1 / found.low == pytest.approx(reciprocal + reach + reach**2 / (4 * max(reciprocal, reach)), rel=2e-3)
    assert found.high == (pytest.approx(1 / (reciprocal - reach), rel=2e-3) if reciprocal > reach else math.inf)
    assert (found.gradient_square, found.noise_trace) == pytest.approx((sum(squares) / 5, 50.0))


def test_examples_double_at_the_critical_batch() -> None:
    assert examples_at(1.0, 1e-9, 64, critical_batch=64) == pytest.approx(2)
    assert examples_at(100.0, 32, 32, critical_batch=64) == 100
    assert examples_at(100.0, 32, 10**6, critical_batch=math.inf) == 100
