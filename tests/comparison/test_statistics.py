"""Intervals that cover the truth as often as they say, and say so where the data do not bound it."""

import random

import pytest
from scipy import stats

from anybatch.comparison.statistics import (
    fit_critical_batch,
    mean_interval,
    paired_p_value,
)

BATCHES = [batch for batch in (16, 64, 256, 1024) for _ in range(3)]


def examples(e_min: float, b_crit: float, seed: int, noise: float = 0.05) -> list[float]:
    draw = random.Random(seed)
    return [e_min * (1 + batch / b_crit) * (1 + draw.gauss(0, noise)) for batch in BATCHES]


def test_an_interval_of_the_mean_is_students() -> None:
    values = [1.0, 2.0, 4.0, 4.5]
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, 3, loc=sum(values) / 4, scale=stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert mean_interval([3.0]).low is None


def test_p_values_are_the_paired_tests_and_none_below_five_pairs() -> None:
    pairs = [0.3, -0.1, 0.4, 0.2, 0.5]
    assert paired_p_value(pairs) == pytest.approx(stats.ttest_1samp(pairs, 0).pvalue, rel=1e-9)
    assert paired_p_value(pairs[:4]) is None
    assert paired_p_value([0.0] * 5) == 1.0


@pytest.mark.parametrize("b_crit", [50, 200, 2000])
def test_the_critical_batch_is_covered_as_often_as_the_interval_says(b_crit: int) -> None:
    covered = 0
    for seed in range(200):
        fit = fit_critical_batch(BATCHES, examples(5000, b_crit, seed))
        assert fit is not None
        low, high = fit.b_crit.low, fit.b_crit.high
        covered += (low is None or low <= b_crit) and (high is None or high >= b_crit)
    assert 180 <= covered <= 199


def test_where_examples_do_not_grow_no_critical_batch_is_claimed() -> None:
    fit = fit_critical_batch(BATCHES, examples(5000, 1e9, 0))
    assert fit is not None
    assert fit.b_crit.high is None
    assert fit.b_crit.low is None or fit.b_crit.low > 1024


def test_too_little_is_not_fitted() -> None:
    assert fit_critical_batch([16, 64], [100.0, 120.0]) is None
    assert fit_critical_batch([16, 16, 16], [100.0, 120.0, 110.0]) is None
