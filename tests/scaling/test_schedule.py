"""The rate of every step."""

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anybatch.scaling import schedule

shapes = st.integers(1, 200).flatmap(lambda steps: st.tuples(st.just(steps), st.integers(0, steps)))


def test_continuous_by_hand() -> None:
    f = schedule(10, 4)
    assert [f(t) for t in range(10)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


def test_global_drops_at_the_join() -> None:
    f = schedule(10, 4, join="global")
    assert [f(t) for t in range(10)] == pytest.approx([0.25, 0.5, 0.75, 1, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


def test_other_decays_by_hand() -> None:
    assert schedule(8, 0, power=0.5)(4) == pytest.approx(math.sqrt(0.5))
    assert schedule(8, 4, decay="cosine")(6) == pytest.approx(0.5)
    assert schedule(8, 4, decay="cosine", join="global")(6) == pytest.approx((1 + math.cos(math.pi * 0.75)) / 2)
    assert [schedule(4, 2, decay="constant")(t) for t in range(6)] == [0.5, 1, 1, 1, 1, 1]


@given(
    shapes,
    st.sampled_from(["polynomial", "cosine", "constant"]),
    st.floats(0.1, 5),
    st.sampled_from(["continuous", "global"]),
)
def test_rises_then_falls_within_bounds(shape: Any, decay: Any, power: Any, join: Any) -> None:
    num_steps, warmup_steps = shape
    f = schedule(num_steps, warmup_steps, decay=decay, power=power, join=join)
    values = [f(t) for t in range(num_steps + 3)]
    assert all(isinstance(value, float) and 0 <= value <= 1 for value in values)
    assert all(values[t] > 0 for t in range(num_steps))
    assert values[:warmup_steps] == sorted(values[:warmup_steps])
    assert values[warmup_steps:] == sorted(values[warmup_steps:], reverse=True)
    assert values[num_steps:] == [1.0 if decay == "constant" else 0.0] * 3


def test_plugs_into_lambda_lr() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=2.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule(3, 1))
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == [2.0, 2.0, 1.0, 0.0]


def test_without_arguments_it_is_a_line_from_the_first_step_on() -> None:
    f = schedule(4)
    assert [f(t) for t in range(5)] == [1, 0.75, 0.5, 0.25, 0]


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))], ids=["copy", "pickle"])
@pytest.mark.parametrize("shape", [{}, {"decay": "cosine", "join": "global"}, {"decay": "constant"}, {"power": 0.5}])
def test_a_schedule_and_its_scheduler_are_copied_and_pickled(twin: Any, shape: Any) -> None:
    f = schedule(9, 3, **shape)
    assert [twin(f)(t) for t in range(12)] == [f(t) for t in range(12)]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=2.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, f)
    optimizer.step()
    scheduler.step()
    other = twin(scheduler)
    for each in (scheduler, other):
        each.optimizer.step()
        each.step()
    assert other.get_last_lr() == scheduler.get_last_lr() == [2 * f(2)]


def test_a_loaded_scheduler_keeps_its_own_length() -> None:
    short, long = (
        torch.optim.lr_scheduler.LambdaLR(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))]), schedule(steps))
        for steps in (10, 20)
    )
    long.load_state_dict(short.state_dict())
    assert long.lr_lambdas[0](5) == 0.75


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 0}, "num_steps=0 is not an int of at least 1"),
        ({"num_steps": 2.5}, r"num_steps=2\.5"),
        ({"num_steps": 5, "warmup_steps": -1}, "warmup_steps=-1 is not an int of at least 0"),
        ({"num_steps": 5, "warmup_steps": 6}, "warmup_steps=6 is more than num_steps=5"),
        ({"num_steps": 5, "decay": "linear"}, "decay='linear' is not one of polynomial, cosine, constant"),
        ({"num_steps": 5, "power": -1.0}, r"power=-1\.0"),
        ({"num_steps": 5, "join": "local"}, "join='local'"),
    ],
)
def test_arguments_are_checked(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedule(**arguments)
