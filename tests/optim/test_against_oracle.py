"""Every optimizer, setting and way of computing, against the paper in float64."""

from typing import Any

import numpy as np
import oracle
import pytest
import torch
from support.steps import expected, groups

from anybatch.optim import LAMB


@pytest.mark.parametrize("foreach", [False, True], ids=["plain", "foreach"])
def test_float64(row: Any, problem: Any, foreach: Any) -> None:
    params = problem.params()
    problem.run(row.make(groups(params), foreach=foreach), params)
    # Layerwise loses digits in x - x': u is about 1, x' has the rounding of x.
    tolerance = 1e-10 if foreach or row.name == "layerwise" else 1e-12
    for p, x in zip(params, expected(row, problem), strict=True):
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("foreach", [False, True], ids=["plain", "foreach"])
def test_capturable_and_tensor_lr_change_no_digit(native_row: Any, problem: Any, foreach: Any) -> None:
    row = native_row
    params = problem.params()
    problem.rates = tuple(torch.tensor(rate, dtype=torch.float64) for rate in problem.rates)
    problem.run(row.make(groups(params), foreach=foreach, capturable=True), params)
    problem.rates = tuple(rate.item() for rate in problem.rates)
    for p, x in zip(params, expected(row, problem), strict=True):
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("foreach", [False, True], ids=["plain", "foreach"])
def test_float32(row: Any, problem: Any, foreach: Any) -> None:
    params = problem.params(torch.float32)
    problem.run(row.make(groups(params), foreach=foreach), params)
    for p, x in zip(params, expected(row, problem), strict=True):
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=2e-5, atol=2e-5)


def test_no_adaptation_is_the_base_update(row: Any, problem: Any) -> None:
    params = problem.params()
    problem.run(row.make([{"params": params, "adapt": False}]), params)
    for i, p in enumerate(params):
        x = row.oracle(problem.xs[i], problem.of(i), problem.rates, adapt=False)
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-10, atol=1e-10)


def test_groups_override(problem: Any) -> None:
    params = problem.params()
    groups = [
        {"params": params[:1], "phi": (0.1, 0.2), "nesterov": "m"},
        {"params": params[1:], "norm": "l1", "eps": 0.1},
    ]
    problem.run(LAMB(groups), params)
    for i, settings in enumerate([{"phi": (0.1, 0.2), "nesterov": "m"}, {"norm": "l1", "eps": 0.1}]):
        x = oracle.lamb(problem.xs[i], problem.of(i), problem.rates, **settings)
        np.testing.assert_allclose(params[i].detach().numpy(), x, rtol=1e-12)


@pytest.mark.parametrize("foreach", [False, True], ids=["plain", "foreach"])
@pytest.mark.parametrize("max_grad_norm", [0.5, 1e6])
def test_clipping(native: Any, problem: Any, max_grad_norm: float | None, foreach: Any) -> None:
    params = problem.params()
    groups = [{"params": params[:2]}, {"params": params[2:]}]
    problem.run(native.make(groups, max_grad_norm=max_grad_norm, maximize=True, foreach=foreach), params)
    problem.gradients = [oracle.clipped(gradients, max_grad_norm) for gradients in problem.gradients]
    for i, p in enumerate(params):
        x = native.oracle(problem.xs[i], problem.of(i), problem.rates, maximize=True)
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("foreach", [False, True], ids=["plain", "foreach"])
def test_bf16_with_masters_is_fp32_rounded(native: Any, problem: Any, foreach: Any) -> None:
    problem.xs = [torch.tensor(x).bfloat16().double().numpy() for x in problem.xs]
    problem.gradients = [[torch.tensor(g).bfloat16().double().numpy() for g in gs] for gs in problem.gradients]
    narrow, wide = problem.params(torch.bfloat16), problem.params(torch.float32)
    optimizer = native.make(narrow, master_weights=True, foreach=foreach)
    problem.run(optimizer, narrow)
    problem.run(native.make(wide, foreach=foreach), wide)
    for p, x in zip(narrow, wide, strict=True):
        assert torch.equal(optimizer.state[p]["master"], x)
        assert torch.equal(p, x.bfloat16())


@pytest.mark.parametrize("foreach", [False, True], ids=["plain", "foreach"])
def test_bf16_without_masters_rounds_once_a_step(native: Any, problem: Any, foreach: Any) -> None:
    problem.xs = [torch.tensor(x).bfloat16().double().numpy() for x in problem.xs]
    problem.gradients = [[torch.tensor(g).bfloat16().double().numpy() for g in gs] for gs in problem.gradients]
    problem.gradients, problem.rates = problem.gradients[:1], problem.rates[:1]
    narrow, wide = problem.params(torch.bfloat16), problem.params(torch.float32)
    optimizer = native.make(narrow, foreach=foreach)
    problem.run(optimizer, narrow)
    problem.run(native.make(wide, foreach=foreach), wide)
    for p, x in zip(narrow, wide, strict=True):
        assert torch.equal(p, x.bfloat16())
        assert all(state.dtype == torch.float32 for state in optimizer.state[p].values())
