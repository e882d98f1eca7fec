"""Gradients of another dtype than their parameter (`p.grad_dtype`): no path rounds them to it."""

from typing import Any

import numpy as np
import pytest
import torch

from anybatch.optim import kernels

PATHS = {"default": {}, "fused": {"fused": True}, "plain": {"foreach": False}, "foreach": {"foreach": True}}
# None of these is a number of bf16.
VALUES = [1.001, -3.14159, 1e-4, 701.5]


def run(native: Any, path: Any, dtypes: Any, parameter: Any = torch.bfloat16, **settings: Any) -> Any:
    x = torch.tensor([[1.0, -2.0, 0.5, 3.0], [1.0, 2.0, 3.0, 4.0]]).to(parameter)
    params = [torch.nn.Parameter(x.clone()) for _ in dtypes]
    optimizer = native.make(params, lr=0.1, **path, **settings)
    for t in range(3):
        for p, dtype in zip(params, dtypes, strict=True):
            p.grad_dtype = dtype
            p.grad = (torch.tensor([VALUES, VALUES[::-1]], dtype=torch.float64) * (t + 1)).to(dtype)
        optimizer.step()
    states = [value for p in params for name, value in optimizer.state[p].items() if name != "step"]
    return [p.detach() for p in params], states


@pytest.mark.parametrize(
    "dtypes",
    [(torch.float32,), (torch.float64,), (torch.bfloat16, torch.float32), (torch.float16,), (torch.float32,) * 2],
    ids=str,
)
@pytest.mark.parametrize("settings", [{}, {"master_weights": True}, {"nesterov": True, "max_grad_norm": 1.0}], ids=str)
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_every_path_computes_with_the_gradient_as_it_is(native: Any, path: Any, settings: Any, dtypes: Any) -> None:
    if native.name == "lamb" and settings.get("nesterov"):
        settings = {**settings, "nesterov": "mv"}
    ends, states = run(native, path, dtypes, **settings)
    # What the gradients are in fp32, given to parameters of fp32 that have the same values.
    wide = [torch.float32 if dtype == torch.float64 else dtype for dtype in dtypes]
    plain, plain_states = run(native, {"foreach": False}, wide, **settings)
    for one, other in zip(ends, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=2**-8, atol=0)
    for one, other in zip(states, plain_states, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-6, atol=1e-12)


def test_the_first_moment_of_a_wide_gradient(native: Any) -> None:
    """1.001 is 1 in bf16."""
    for path in PATHS.values():
        p = torch.nn.Parameter(torch.ones(4).bfloat16())
        p.grad_dtype = torch.float32
        p.grad = torch.full((4,), 1.001)
        optimizer = native.make([p], lr=0.1, weight_decay=0.0, **path)
        optimizer.step()
        value = optimizer.state[p][optimizer._state_names[1 if native.name == "lamb" else 0]]
        assert value.tolist() == pytest.approx([0.1001] * 4, rel=1e-6), path


@pytest.mark.without_kernels
def test_triton_computes_with_the_gradient_as_it_is(native: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from anybatch.optim.kernels import triton

    several = [(torch.float32,), (torch.float64, torch.float32)]
    plain = [run(native, {"foreach": False}, dtypes, weight_decay=0.0) for dtypes in several]
    monkeypatch.setitem(kernels.BACKENDS, "cpu", "anybatch.optim.kernels.triton")
    monkeypatch.setattr(triton, "CHUNK", 16)
    monkeypatch.setattr(triton, "BLOCK", 8)
    kernels.kernels_for.cache_clear()
    try:
        with np.errstate(all="ignore"):
            fused = [run(native, {"fused": True}, dtypes, weight_decay=0.0) for dtypes in several]
    finally:
        kernels.kernels_for.cache_clear()
    for (ends, states), (plain_ends, plain_states) in zip(fused, plain, strict=True):
        torch.testing.assert_close(ends, plain_ends, rtol=2**-5, atol=0)  # the interpreter does not round to nearest
        torch.testing.assert_close(states[0], plain_states[0], rtol=2e-6, atol=1e-12)
