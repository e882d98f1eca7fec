"""A batch that grows under one schedule."""

import math
import pickle
from typing import Any

import pytest

from anybatch.scaling import Reference


def reference(**others: Any) -> Reference:
    return Reference(**{"batch_size": 64, "lr": 1e-3, "warmup_ratio": 0.05, "num_examples": 64_000, **others})


@pytest.mark.parametrize("join", ["continuous", "global"])
@pytest.mark.parametrize("decay", ["polynomial", "cosine", "constant"])
@pytest.mark.parametrize("batch", [16, 64, 100, 1000])
def test_one_stage_is_the_run_at_that_batch(batch: int, decay: Any, join: Any) -> None:
    tuned = reference(decay=decay, join=join, power=1.5)
    (stage,), whole = tuned.ramp([(1.0, batch)]), tuned.at(batch)
    assert (stage.num_steps, stage.warmup_steps, stage.optimizer) == (
        whole.num_steps,
        whole.warmup_steps,
        whole.optimizer,
    )
    for t in range(whole.num_steps):
        assert stage.schedule(t) == pytest.approx(whole.schedule(t), rel=1e-12, abs=1e-12)


def test_a_switch_multiplies_the_rate_by_the_rule_s_factor() -> None:
    small, large = reference(warmup_ratio=0.0).ramp([(0.5, 64), (0.5, 128)])
    assert (small.num_steps, large.num_steps) == (500, 250)
    last, first = small.lr * small.schedule(499), large.lr * large.schedule(0)
    # One step of 64 examples further on the same line, times the square root of two.
    assert small.schedule(499) == pytest.approx(1 - 499 / 1000)
    assert large.schedule(0) == pytest.approx(0.5)
    assert first / last == pytest.approx(math.sqrt(2) * 500 / 501)
    assert large.schedule(250) == 0.0


def test_warm_up_runs_on_over_a_switch_and_does_not_begin_again() -> None:
    stages = reference(warmup_ratio=0.1).ramp([(0.05, 64), (0.45, 128), (0.5, 256)])
    assert [stage.warmup_steps for stage in stages] == [50, 25, 0]
    multipliers = [stage.schedule(t) for stage in stages for t in range(stage.num_steps)]
    top = multipliers.index(1.0)
    assert multipliers[:top] == sorted(multipliers[:top])
    assert multipliers[top:] == sorted(multipliers[top:], reverse=True)


def test_every_example_is_seen_once_an_epoch_whatever_the_stages() -> None:
    stages = reference().ramp([(0.1, 7), (0.2, 64), (0.3, 100), (0.4, 999)])
    total = sum(stage.num_examples for stage in stages)
    assert 0 <= total - 64_000 < 999
    assert [stage.num_examples for stage in stages] == [stage.num_steps * stage.batch_size for stage in stages]


def test_the_moments_follow_each_batch() -> None:
    small, large = reference(rule="sde", betas=(0.9, 0.99)).ramp([(0.5, 64), (0.5, 128)])
    assert (small.betas, large.betas) == ((0.9, 0.99), (0.8, 0.98))


def test_a_late_batch_may_be_larger_than_its_own_warm_up_allows() -> None:
    with pytest.raises(ValueError, match="warm-up ratio"):
        reference().at(2048)
    assert reference().ramp([(0.5, 64), (0.5, 2048)])[1].warmup_steps == 0


def test_a_stage_is_pickled() -> None:
    stage = reference().ramp([(0.5, 64), (0.5, 128)])[1]
    assert pickle.loads(pickle.dumps(stage.schedule))(3) == stage.schedule(3)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "is no list of"),
        ("64:256", "is no list of"),
        ([0.5, 0.5], "is no list of"),
        ([(float("nan"), 64), (0.5, 128)], "not all above 0"),
        ([(0.5, 64), (0.6, 128)], "add up to 1.1, not to 1"),
        ([(-0.5, 64), (1.5, 128)], "not all above 0"),
        ([(0.5, 128), (0.5, 64)], "batch 64 follows 128: a ramp does not shrink"),
        ([(0.0001, 64), (0.9999, 128)], "batch 64: its share of 64000 examples is less than a step"),
        ([(0.5, 64), (0.5, 100_000)], "batch_size=100000 is more than num_examples=64000"),
        ([(0.5, 64), (0.5, 64.5)], "is not an int"),
    ],
)
def test_what_is_no_ramp_is_refused(stages: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reference().ramp(stages)
