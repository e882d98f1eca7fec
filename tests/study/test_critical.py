"""From branches to a critical batch and a ramp."""

import math
from collections.abc import Sequence
from typing import Any

import pytest

from anybatch.study.critical import critical_batch, excess, power_law, ramp


def branches(*means: float, error: float = 0.0) -> list[dict[str, float]]:
    return [{"factor": 2 ** (number + 1), "mean": mean, "error": error} for number, mean in enumerate(means)]


@pytest.mark.parametrize(
    ("excesses", "low", "value", "high"),
    [
        (branches(0.0, 0.0, 0.0), 128, None, None),
        (branches(0.0, 0.005, 0.015), 64, 16 * 4 * 2**0.5, 128),
        (branches(0.02, 0.03), 16, 16 * 2**0.5, 32),
        # A larger batch that happens to be better again does not count.
        (branches(0.0, 0.03, 0.0), 32, 16 * 2 * 2 ** (1 / 3), 64),
        (branches(-0.01, 0.0, 0.02), 64, 16 * 4 * 2**0.5, 128),
        # Too noisy to say: between nothing and everything.
        (branches(0.0, 0.012, error=0.01), 16, 16 * 2 * 2 ** (0.01 / 0.012), None),
        (branches(0.0, math.inf), 32, 32.0, 64),
    ],
)
def test_it_lies_between_what_was_shown_to_lose_nothing_and_to_lose_more(
    excesses: Sequence[dict[str, float]], low: int, value: float | None, high: int | None
) -> None:
    found = critical_batch(1000, 16, 3.0, excesses, 0.01)
    assert (found["low"], found["high"]) == (low, high)
    assert found["value"] == (None if value is None else pytest.approx(value))


def test_a_small_loss_has_a_smaller_tolerance() -> None:
    assert critical_batch(1000, 16, 0.1, branches(0.005), 0.01)["high"] == 32
    assert critical_batch(1000, 16, 5.0, branches(0.005), 0.01)["high"] is None


def test_an_excess_is_a_paired_difference() -> None:
    found = excess(2, [3.1, 3.2, 3.3], [3.0, 3.1, 3.1])
    assert (found["mean"], found["error"]) == pytest.approx((0.4 / 3, math.sqrt(0.02 / 3 / 2 / 3)), rel=1e-6)
    assert excess(2, [3.0, math.inf], [3.0, 3.0])["mean"] == math.inf


def point(examples: int, low: int, value: float | None) -> dict[str, Any]:
    return {"examples": examples, "low": low, "value": value}


def test_a_power_law_is_found_again() -> None:
    scale, exponent = power_law([point(n, 1, 3 * n**0.5) for n in (100, 400, 1600)]) or (0, 0)
    assert (scale, exponent) == pytest.approx((3, 0.5))
    assert power_law([point(100, 1, 5.0), point(200, 1, None)]) is None
    assert power_law([point(100, 1, 5.0), point(100, 1, 6.0)]) is None


def test_the_ramp_never_shrinks_and_waits_for_the_first_point() -> None:
    points = [point(100, 16, 20), point(200, 70, 80), point(400, 32, 40), point(800, 200, 300)]
    assert ramp(points, 16, 1000) == [(0.2, 16), (pytest.approx(0.6), 64), (pytest.approx(0.2), 128)]
    assert ramp([point(100, 16, 20)], 16, 1000) == [(1.0, 16)]
    assert sum(share for share, _ in ramp(points, 16, 1000)) == pytest.approx(1)
