"""What must hold for every layer, whatever its shape and numbers."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anybatch.optim import LAMB, LARS, Layerwise, TrustRatio

quick = settings(max_examples=40, deadline=None, derandomize=True)
shapes = st.lists(st.integers(1, 5), min_size=0, max_size=3)
seeds = st.integers(0, 10_000)


def layer(shape: Any, seed: int, scale: Any = 1.0) -> Any:
    random = torch.Generator().manual_seed(seed)
    p = torch.nn.Parameter(torch.randn(shape, generator=random, dtype=torch.float64) * scale)
    p.grad = torch.randn(shape, generator=random, dtype=torch.float64)
    return p


@quick
@given(shapes, seeds, st.floats(1e-3, 1e3), st.sampled_from(["lamb", "lars", "adamw", "sgd", "adagrad"]))
def test_an_adapted_layer_moves_by_lr_times_phi_of_its_norm(shape: Any, seed: int, scale: Any, name: str) -> None:
    p = layer(shape, seed, scale)
    before = p.detach().clone()
    phi = (0.5, 20.0)
    bases = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad}
    make = {"lamb": lambda: LAMB([p], lr=0.1, phi=phi), "lars": lambda: LARS([p], lr=0.1, phi=phi)}
    optimizer = make[name]() if name in make else Layerwise(bases[name]([p], lr=0.1), phi=phi)
    optimizer.step()
    moved = (p - before).norm().item()
    assert moved == pytest.approx(0.1 * min(max(before.norm().item(), phi[0]), phi[1]), rel=1e-9)


@quick
@given(shapes, seeds, st.sampled_from([1e-20, 1e-3, 7.0, 1e12]), st.sampled_from(["lamb", "lars"]))
def test_the_scale_of_a_gradient_changes_nothing(shape: Any, seed: int, scale: Any, name: str) -> None:
    one, other = layer(shape, seed), layer(shape, seed)
    for p, factor in ((one, 1.0), (other, scale)):
        settings = {"eps": 0.0, "weight_decay": 0.0 if name == "lars" else 0.1}
        optimizer = LAMB([p], lr=0.1, **settings) if name == "lamb" else LARS([p], 0.1, **settings)
        for _ in range(3):
            p.grad = p.grad.roll(1) * factor if p.ndim else p.grad * factor
            optimizer.step()
            p.grad = p.grad / factor
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("foreach", [False, True], ids=["plain", "foreach"])
def test_blocks_are_layers(kind: Any, foreach: Any) -> None:
    whole = layer((6, 4), 1)
    whole.data[:2] *= 10
    parts = [torch.nn.Parameter(x.clone()) for x in whole.detach().split(2)]
    together = kind.make([{"params": [("qkv", whole)], "blocks": 3}], lr=0.1, foreach=foreach)
    apart = kind.make(list(zip("qkv", parts, strict=True)), lr=0.1, foreach=foreach)
    for seed in range(3):
        whole.grad = layer((6, 4), seed).grad
        for p, g in zip(parts, whole.grad.split(2), strict=True):
            p.grad = g.clone()
        together.step()
        apart.step()
    assert torch.equal(whole, torch.cat(parts))
    assert list(together.trust_ratios()) == ["qkv[0]", "qkv[1]", "qkv[2]"]
    assert list(together.trust_ratios().values()) == list(apart.trust_ratios().values())


@pytest.mark.parametrize("foreach", [False, True], ids=["plain", "foreach"])
def test_every_kind_of_layer(kind: Any, foreach: Any) -> None:
    transposed = torch.nn.Parameter(layer((4, 6), 2).detach().t())
    sliced = torch.nn.Parameter(layer((6, 8), 3).detach()[:, ::2])
    layers = [layer((), 0), layer((0, 2), 0), layer((1,), 0), transposed, sliced]
    for p in layers:
        p.grad = torch.ones_like(p) if p.grad is None else p.grad
    plain = [torch.nn.Parameter(p.detach().clone(memory_format=torch.contiguous_format)) for p in layers]
    optimizer = kind.make([{"params": layers[:3]}, {"params": layers[3:], "blocks": 2}], foreach=foreach)
    control = kind.make([{"params": plain[:3]}, {"params": plain[3:], "blocks": 2}], foreach=foreach)
    for _ in range(2):
        for p, x in zip(layers, plain, strict=True):
            x.grad = p.grad.clone(memory_format=torch.contiguous_format)
        optimizer.step()
        control.step()
    for p, x in zip(layers, plain, strict=True):
        torch.testing.assert_close(p, x, rtol=1e-13, atol=0)
        assert p.isfinite().all()


@pytest.mark.parametrize("foreach", [False, True], ids=["plain", "foreach"])
def test_blocks_of_a_tensor_with_no_row(kind: Any, foreach: Any) -> None:
    p = layer((0, 2), 0)
    optimizer = kind.make([{"params": [p], "blocks": 3}], foreach=foreach)
    optimizer.step()
    assert [ratio.ratio for ratio in optimizer.trust_ratios().values()] == [1.0] * 3


@pytest.mark.parametrize("foreach", [False, True], ids=["plain", "foreach"])
@pytest.mark.parametrize("phi", [(0.0, math.inf), (0.5, 2.0)])
def test_zero_norms_give_ratio_one(kind: Any, phi: Any, foreach: Any) -> None:
    nothing, still = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.ones(3))
    optimizer = kind.make([nothing, still], lr=0.1, weight_decay=0.0, phi=phi, foreach=foreach)
    nothing.grad, still.grad = torch.ones(3), torch.zeros(3)
    optimizer.step()
    assert optimizer.trust_ratios()["0.0"].ratio == 1.0
    assert optimizer.trust_ratios()["0.1"].ratio == 1.0
    assert not any(ratio.clamped for ratio in optimizer.trust_ratios().values())
    assert torch.equal(still, torch.ones(3))
    assert nothing.norm() > 0


def test_gradients_are_never_written(row: Any, problem: Any) -> None:
    params = problem.params()
    optimizer = row.make(params, **({} if row.name == "layerwise" else {"max_grad_norm": 0.1, "nonfinite": "skip"}))
    for foreach in (False, True):
        optimizer.param_groups[0]["foreach"] = foreach
        for p, g in zip(params, problem.gradients[0], strict=True):
            p.grad = torch.tensor(g)
        versions = [p.grad._version for p in params]
        optimizer.step()
        assert [p.grad._version for p in params] == versions
        assert all(np.array_equal(p.grad.numpy(), g) for p, g in zip(params, problem.gradients[0], strict=True))


def test_no_gradient_no_step_no_state(kind: Any) -> None:
    moved, left = layer((2,), 0), layer((2,), 1)
    before, left.grad = left.detach().clone(), None
    optimizer = kind.make([moved, left])
    optimizer.step()
    assert torch.equal(left, before)
    assert left not in optimizer.state
    assert list(optimizer.trust_ratios()) == ["0.0"]
    moved.grad = None
    optimizer.step()


def test_a_nan_spoils_its_own_layer_only(kind: Any, problem: Any) -> None:
    params, control = problem.params(), problem.params()
    gate = {} if kind.name == "layerwise" else {"max_grad_norm": 0.1}
    problem.gradients[1][0][2, 1] = math.nan
    problem.run(kind.make(params, **gate), params)
    for gradients in problem.gradients:
        gradients[0] = np.zeros_like(gradients[0]) if gate else gradients[0]
    spoiled, others = params[0], params[1:]
    assert spoiled.isnan().any()
    assert all(p.isfinite().all() for p in others)
    if not gate:
        problem.run(kind.make(control), control)
        assert all(torch.equal(p, x) for p, x in zip(others, control[1:], strict=True))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_clipping_leaves_a_nonfinite_layer_out(native: Any, problem: Any, bad: Any) -> None:
    params, control = problem.params(), problem.params()
    problem.gradients, problem.rates = problem.gradients[:1], problem.rates[:1]
    problem.gradients[0][0][:] = 0
    problem.run(native.make(control, max_grad_norm=0.1), control)
    problem.gradients[0][0][2, 1] = bad
    problem.run(native.make(params, max_grad_norm=0.1), params)
    assert all(torch.equal(p, x) for p, x in zip(params[1:], control[1:], strict=True))


def test_a_vanishing_update_never_becomes_infinite(native: Any) -> None:
    p = torch.nn.Parameter(torch.full((2,), 1e20))
    p.grad = torch.full((2,), 1e-42)
    optimizer = native.make([p], lr=0.1, weight_decay=0.0)
    optimizer.step()
    assert p.isfinite().all()


def test_trust_ratios_tell_what_happened() -> None:
    adapted, clamped, excluded = (torch.nn.Parameter(torch.tensor([3.0, 4.0])) for _ in range(3))
    groups = [
        {"params": [("a", adapted)]},
        {"params": [("b", clamped)], "phi": (0.0, 2.0)},
        {"params": [("c", excluded)], "adapt": False},
    ]
    optimizer = LARS(groups, lr=0.1, momentum=0.0)
    assert optimizer.trust_ratios() == {}
    for p in (adapted, clamped, excluded):
        p.grad = torch.tensor([10.0, 0.0])
    optimizer.step()
    assert optimizer.trust_ratios() == {
        "a": TrustRatio(5.0, 10.0, 0.5, False),
        "b": TrustRatio(5.0, 10.0, 0.2, True),
        "c": TrustRatio(5.0, 10.0, 1.0, False),
    }
    assert isinstance(optimizer.trust_ratios()["b"].clamped, bool)


def test_lr_zero_moves_nothing(row: Any, problem: Any) -> None:
    params = problem.params(torch.float32)
    problem.rates = (0.0,) * 5
    problem.run(row.make(params), params)
    assert all(torch.equal(p, x) for p, x in zip(params, problem.params(torch.float32), strict=True))


def test_mixed_dtypes_in_one_group(native: Any, problem: Any) -> None:
    dtypes = [torch.float64, torch.float32, torch.bfloat16, torch.float64, torch.float32, torch.bfloat16]
    mixed = [torch.nn.Parameter(torch.tensor(x, dtype=dtype)) for x, dtype in zip(problem.xs, dtypes, strict=True)]
    apart = [torch.nn.Parameter(p.detach().clone()) for p in mixed]
    problem.run(native.make(mixed, foreach=True), mixed)
    for i, p in enumerate(apart):
        optimizer = native.make([p], foreach=True)
        for gradients, rate in zip(problem.gradients, problem.rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate
            p.grad = torch.tensor(gradients[i], dtype=p.dtype)
            optimizer.step()
    assert all(torch.equal(p, x) for p, x in zip(mixed, apart, strict=True))
