"""Independent implementations, at the settings at which they claim to be the same algorithm."""

from typing import Any

import numpy as np
import pytest
from support import peers

from anybatch.optim import LAMB, LARS


def after(make: Any, problem: Any) -> Any:
    params = problem.params()
    problem.run(make(params), params)
    return [p.detach().numpy() for p in params]


def optax_after(make: Any, problem: Any) -> Any:
    return peers.optax_after(make, problem.xs, problem.gradients, problem.rates)


def assert_same(ours: Any, theirs: Any, tolerance: float = 1e-12) -> None:
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_lamb_is_optax_lamb(problem: Any) -> None:
    theirs = optax_after(lambda optax, lr: optax.lamb(lr, weight_decay=0.1), problem)
    assert_same(after(lambda params: LAMB(params, weight_decay=0.1), problem), theirs)


@pytest.mark.parametrize("nesterov", [False, True])
def test_lars_2017_is_optax_lars(problem: Any, nesterov: Any) -> None:
    def rule(optax: Any, lr: Any) -> Any:
        return optax.lars(lr, weight_decay=0.1, trust_coefficient=0.02, eps=1e-3, nesterov=nesterov)

    ours = {"weight_decay": 0.1, "trust_coefficient": 0.02, "eps": 1e-3, "joint_norm": True, "nesterov": nesterov}
    assert_same(after(lambda params: LARS(params, 0.1, form="lars-2017", **ours), problem), optax_after(rule, problem))


@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
@pytest.mark.parametrize("bias_correction", [True, False])
def test_lamb_is_timm_lamb(problem: Any, max_grad_norm: float | None, bias_correction: bool) -> None:
    theirs = peers.timm("lamb").Lamb
    shared = {"weight_decay": 0.1, "bias_correction": bias_correction, "max_grad_norm": max_grad_norm}
    assert_same(
        after(lambda params: LAMB(params, **shared), problem),
        after(lambda params: theirs(params, always_adapt=True, foreach=False, **shared), problem),
    )


@pytest.mark.parametrize("nesterov", [False, True])
def test_lars_lr_outside_is_timm_lars(problem: Any, nesterov: Any) -> None:
    theirs = peers.timm("lars").Lars
    shared = {"momentum": 0.9, "weight_decay": 0.1, "eps": 1e-8, "nesterov": nesterov}
    assert_same(
        after(lambda params: LARS(params, 0.1, form="lr-outside", trust_coefficient=0.02, **shared), problem),
        after(
            lambda params: theirs(params, 0.1, trust_coeff=0.02, always_adapt=True, foreach=False, **shared), problem
        ),
    )
