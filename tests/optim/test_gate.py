"""Skipping, raising, and what waits for the device."""

import math
from typing import Any

import pytest
import torch
from support.steps import Waits, assert_bitwise, snapshot


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("steps", [0, 2], ids=["first step", "third step"])
def test_skip_leaves_everything_bitwise_and_counts(native: Any, problem: Any, bad: Any, steps: Any) -> None:
    params = problem.params(torch.float32)
    named = [(f"layer{i}", p) for i, p in enumerate(params)]
    optimizer = native.make(named, nonfinite="skip", max_grad_norm=1.0)
    problem.run(optimizer, params, slice(steps))
    before, ratios = snapshot(optimizer, params), optimizer.trust_ratios()
    problem.gradients[steps][3][1, 1, 1] = bad
    problem.run(optimizer, params, slice(steps, steps + 1))
    assert_bitwise(snapshot(optimizer, params), before)
    assert optimizer.skipped_steps == 1
    assert optimizer.nonfinite_layers == ["layer3"]
    assert optimizer.trust_ratios() == ratios
    problem.run(optimizer, params, slice(steps + 1, None))
    assert optimizer.skipped_steps == 1
    assert optimizer.nonfinite_layers == []
    assert not torch.equal(params[0], before[0][0])


def test_raise_names_the_layers_and_changes_nothing(native: Any, problem: Any) -> None:
    params = problem.params()
    optimizer = native.make([{"params": params[:2]}, {"params": params[2:]}], nonfinite="raise")
    problem.run(optimizer, params, slice(2))
    before = snapshot(optimizer, params)
    problem.gradients[2][1][0] = math.nan
    problem.gradients[2][3][0] = math.inf
    with pytest.raises(RuntimeError, match=r"non-finite gradient in 0\.1, 1\.1;"):
        problem.run(optimizer, params, slice(2, 3))
    assert_bitwise(snapshot(optimizer, params), before)
    assert optimizer.nonfinite_layers == ["0.1", "1.1"]
    assert optimizer.skipped_steps == 0


def test_finite_steps_are_the_same_under_every_policy(native: Any, problem: Any) -> None:
    runs = []
    for nonfinite in ("propagate", "skip", "raise"):
        params = problem.params()
        problem.run(native.make(params, nonfinite=nonfinite), params)
        runs.append(params)
    for params in runs[1:]:
        assert all(torch.equal(p, x) for p, x in zip(params, runs[0], strict=True))


@pytest.mark.parametrize("foreach", [False, True], ids=["plain", "foreach"])
@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
def test_capturable_never_waits(native: Any, problem: Any, max_grad_norm: float | None, foreach: Any) -> None:
    params = problem.params(torch.float32)
    lr = torch.tensor(0.1)
    optimizer = native.make(params, lr=lr, capturable=True, max_grad_norm=max_grad_norm, foreach=foreach)
    for p, g in zip(params, problem.gradients[0], strict=True):
        p.grad = torch.tensor(g, dtype=torch.float32)
    with Waits() as waits:
        optimizer.step()
        optimizer.step()
    assert waits.count == 0
    assert optimizer.trust_ratios()
    assert optimizer.param_groups[0]["lr"] is lr


@pytest.mark.parametrize("nonfinite", ["skip", "raise"])
def test_capturable_excludes_what_must_wait(native: Any, nonfinite: str) -> None:
    with pytest.raises(ValueError, match=f"nonfinite='{nonfinite}'.*capturable"):
        native.make([torch.nn.Parameter(torch.ones(1))], capturable=True, nonfinite=nonfinite)


def test_a_graph_cannot_hold_the_first_step(native: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    optimizer = native.make([p], lr=0.1, capturable=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="take a step before"):
        optimizer.step()
    assert not optimizer.state[p]
    assert torch.equal(p, torch.ones(2))
