"""The wrapper and its base are one optimizer."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

from anybatch.optim import LAMB, LARS, Layerwise


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_over_adamw_it_is_lamb(problem: Any, dtype: torch.dtype) -> None:
    wrapped, plain = problem.params(dtype), problem.params(dtype)
    problem.run(Layerwise(torch.optim.AdamW(wrapped, eps=1e-6, weight_decay=0.1)), wrapped)
    problem.run(LAMB(plain, weight_decay=0.1), plain)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    for p, x in zip(wrapped, plain, strict=True):
        torch.testing.assert_close(p, x, rtol=tolerance, atol=tolerance)


def test_over_sgd_it_is_lars_without_momentum(problem: Any) -> None:
    wrapped, plain = problem.params(), problem.params()
    problem.run(Layerwise(torch.optim.SGD(wrapped, lr=0.1, weight_decay=0.1)), wrapped)
    problem.run(LARS(plain, lr=0.1, momentum=0.0, weight_decay=0.1), plain)
    for p, x in zip(wrapped, plain, strict=True):
        torch.testing.assert_close(p, x, rtol=1e-12, atol=1e-12)


def test_unadapted_it_is_the_base(problem: Any) -> None:
    wrapped, plain = problem.params(), problem.params()
    problem.run(Layerwise(torch.optim.Adam([{"params": wrapped, "adapt": False}], lr=0.1)), wrapped)
    problem.run(torch.optim.Adam(plain, lr=0.1), plain)
    for p, x in zip(wrapped, plain, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), x.detach().numpy(), rtol=1e-12, atol=1e-12)


def test_groups_state_and_defaults_are_shared(problem: Any) -> None:
    params = problem.params()
    base = torch.optim.AdamW(params)
    optimizer = Layerwise(base, phi=(0.0, 10.0))
    problem.run(optimizer, params, slice(2))
    checkpoint = copy.deepcopy(base.state_dict())
    assert checkpoint["param_groups"][0]["phi"] == (0.0, 10.0)
    optimizer.load_state_dict(checkpoint)
    assert optimizer.param_groups is base.param_groups
    assert optimizer.state is base.state
    assert optimizer.defaults is base.defaults
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
    assert base.param_groups[1]["blocks"] == 1
    assert base.param_groups[1]["phi"] == (0.0, 10.0)
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)


def test_a_scheduler_on_the_base_moves_both() -> None:
    p = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    base = torch.optim.SGD([p], lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(base, 1, 0.5)
    optimizer = Layerwise(base)
    for expected in (0.5, 0.25):
        before = p.detach().clone()
        p.grad = torch.tensor([1.0, 0.0])
        optimizer.step()
        scheduler.step()
        assert (p - before).norm().item() == pytest.approx(expected * before.norm().item() / 5)


def test_a_state_dict_of_the_bare_base_loads(problem: Any) -> None:
    params = problem.params()
    base = torch.optim.AdamW(params)
    problem.run(base, params, slice(2))
    optimizer = Layerwise(torch.optim.AdamW(params))
    optimizer.load_state_dict(copy.deepcopy(base.state_dict()))
    assert optimizer.param_groups[0]["adapt"] is True
    problem.run(optimizer, params, slice(2, None))
    assert optimizer.state[params[0]]["step"] == 5


def test_hooks_of_saving_and_loading_run_on_either(problem: Any) -> None:
    base, calls = torch.optim.AdamW(problem.params()), []
    optimizer = Layerwise(base)
    optimizer.register_state_dict_pre_hook(lambda _: calls.append("saving"))
    base.register_load_state_dict_post_hook(lambda _: calls.append("loaded"))
    optimizer.load_state_dict(optimizer.state_dict())
    assert calls == ["saving", "loaded"]


@pytest.mark.parametrize("scheduled", ["nothing", "the base", "the wrapper"])
@pytest.mark.parametrize("patched", [False, True])
def test_hooks_of_all_optimizers_run_once_and_find_the_real_rate(scheduled: Any, patched: Any) -> None:
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    p = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    base = torch.optim.AdamW([p], lr=0.1)
    optimizer, seen = Layerwise(base), []
    if scheduled != "nothing":
        scheduler = torch.optim.lr_scheduler.StepLR(base if scheduled == "the base" else optimizer, 1, 0.5)
    if patched and scheduled == "the base":
        return  # PyTorch warns of a step that was replaced after a scheduler had been made
    if patched:
        inner, calls = base.step, []
        base.step = lambda: (calls.append(1), inner())[1]

    def look(which: str, _args: Any, _kwargs: Any) -> None:
        seen.append((type(which).__name__, which.param_groups[0]["lr"], p.detach().clone()))

    handles = [register_optimizer_step_pre_hook(look), register_optimizer_step_post_hook(look)]
    try:
        ends = [p.detach().clone()]
        for _ in range(2):
            p.grad = torch.ones(2)
            optimizer.step()
            ends.append(p.detach().clone())
            if scheduled != "nothing":
                scheduler.step()
    finally:
        for handle in handles:
            handle.remove()
    if patched:
        assert calls == [1, 1], "whoever has replaced the base's step is still asked"
        seen = [each for each in seen if each[0] == "Layerwise"]
    second = 0.1 if scheduled == "nothing" else 0.05
    assert [(name, rate) for name, rate, _ in seen] == [("Layerwise", rate) for rate in (0.1, 0.1, second, second)]
    assert all(torch.equal(seen[i][2], ends[k]) for i, k in enumerate([0, 1, 1, 2]))


@pytest.mark.parametrize("wrong", [{"norm": "l0"}, {"phi": (2.0, 1.0)}, {"trust_clip": 3}])
def test_a_base_that_was_not_wrapped_is_as_it_was(wrong: Any) -> None:
    base = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    before = copy.deepcopy((base.defaults, base.state_dict()))
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Layerwise(base, **wrong)
    assert (base.defaults, base.state_dict()) == before
