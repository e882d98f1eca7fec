"""The fused CPU step: the paper's numbers, the plain path's manners."""

import copy
import math
import pickle
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from support.steps import groups
from torch import nn

from anybatch.optim import LAMB, LARS
from anybatch.optim.kernels.library import squares


def fused_rows(row: Any) -> Any:
    return row.settings.get("norm", "l2") == "l2"


def distance(params: Any, expected: Any) -> Any:
    return max((np.abs(p.detach().double().numpy() - x).max() for p, x in zip(params, expected, strict=True) if x.size))


@pytest.fixture
def large() -> Any:
    """Layers of every kind of work: below a chunk, some chunks by one thread, both passes over a list, and u twice."""
    random = np.random.default_rng(1)

    def make(dtype: Any = torch.float32, sizes: Any = (7, 1000, 40_000, 140_001, 300_000), steps: int = 3) -> Any:
        generator = torch.Generator().manual_seed(int(random.integers(1000)))
        xs = [torch.randn(n, generator=generator).to(dtype) for n in sizes]
        return xs, [[torch.randn(n, generator=generator).to(dtype) for n in sizes] for _ in range(steps)]

    return make


def run(optimizer: Any, params: Any, gradients: Any) -> None:
    for several in gradients:
        for p, g in zip(params, several, strict=True):
            p.grad = None if g is None else g.clone()
        optimizer.step()


def parameters(xs: Any) -> Any:
    return [nn.Parameter(x.clone()) for x in xs]


def test_fp32_is_as_near_to_the_paper_as_the_plain_path(native_row: Any, problem: Any) -> None:
    if not fused_rows(native_row):
        return
    expected = [native_row.oracle(problem.xs[i], problem.of(i), problem.rates) for i in range(5)]
    found = {}
    for fused in (False, True):
        params = problem.params(torch.float32)[:5]
        optimizer = native_row.make(params, fused=fused)
        for gradients, rate in zip(problem.gradients, problem.rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate
            for p, g in zip(params, gradients, strict=False):
                p.grad = torch.tensor(g, dtype=p.dtype)
            optimizer.step()
        found[fused] = distance(params, expected)
    assert found[True] <= 2 * found[False] + 1e-7


def test_large_layers_are_as_near_to_the_paper_as_the_plain_path(native: Any, large: Any) -> None:
    xs, gradients = large()
    expected = [
        native.oracle(x.double().numpy(), [several[i].double().numpy() for several in gradients], [0.01] * 3)
        for i, x in enumerate(xs)
    ]
    found = {}
    for fused in (False, True):
        params = parameters(xs)
        run(native.make(params, lr=0.01, fused=fused), params, gradients)
        found[fused] = distance(params, expected)
    assert found[True] <= 2 * found[False]


@pytest.mark.parametrize("more", [{}, {"max_grad_norm": 0.5}, {"maximize": True}])
def test_groups_blocks_and_exclusions(native_row: Any, problem: Any, more: Any) -> None:
    if not fused_rows(native_row):
        return
    runs = []
    for fused in (False, True):
        params = problem.params(torch.float32)
        optimizer = native_row.make(groups(params), fused=fused, **more)
        problem.run(optimizer, params)
        runs.append((params, optimizer))
    (plain, control), (params, optimizer) = runs
    for p, x in zip(params, plain, strict=True):
        torch.testing.assert_close(p, x, rtol=1e-5, atol=1e-5)
    assert optimizer.trust_ratios().keys() == control.trust_ratios().keys()
    for name, ratio in control.trust_ratios().items():
        assert optimizer.trust_ratios()[name] == pytest.approx(ratio, rel=1e-4), name
    for p, x in zip(params, plain, strict=True):
        assert {k: (v.dtype, v.shape) for k, v in optimizer.state[p].items()} == {
            k: (v.dtype, v.shape) for k, v in control.state[x].items()
        }


@pytest.mark.parametrize("masters", [False, True], ids=["", "masters"])
def test_bf16(native: Any, large: Any, masters: Any) -> None:
    xs, gradients = large(torch.bfloat16, steps=3 if masters else 1)
    narrow, wide = parameters(xs), parameters([x.float() for x in xs])
    optimizer = native.make(narrow, lr=0.01, fused=True, master_weights=masters)
    run(optimizer, narrow, gradients)
    run(native.make(wide, lr=0.01, fused=True), wide, [[g.float() for g in several] for several in gradients])
    for p, x in zip(narrow, wide, strict=True):
        assert torch.equal(p, x.bfloat16())
        if masters:
            assert torch.equal(optimizer.state[p]["master"], x)


def test_bf16_rounds_as_torch_does(native: Any) -> None:
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    p = nn.Parameter(bits.clone())
    p.grad = torch.zeros_like(p)
    native.make([{"params": [p], "adapt": False}], lr=0.0, weight_decay=0.0, fused=True).step()
    odd = bits.isnan() | bits.isinf()
    assert torch.equal(p[~odd], bits[~odd])
    assert not p[odd].isfinite().any()


@pytest.mark.parametrize("settings", [{}, {"max_grad_norm": 0.5}, {"nesterov": True}], ids=str)
def test_the_number_of_threads_changes_no_bit(native: Any, large: Any, settings: Any) -> None:
    if native.name == "lamb" and "nesterov" in settings:
        settings = {"nesterov": "mv"}
    xs, gradients = large(sizes=(300_000, 5, 1_000_000, 20_000, 140_001), steps=2)
    threads, runs = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 11):
            torch.set_num_threads(count)
            params = parameters(xs)
            optimizer = native.make(params, lr=0.01, fused=True, **settings)
            run(optimizer, params, gradients)
            runs.append([*params, *(value for p in params for value in optimizer.state[p].values())])
    finally:
        torch.set_num_threads(threads)
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


@pytest.mark.parametrize("size", [0.1, 0.5028, 0.7083, 1e-18, 1e-22, 1e-42, 1e18, 1e24, 3e38])
def test_norms_of_large_layers_keep_their_digits(size: float) -> None:
    random = size / 6 * torch.randn(3_000_001, generator=torch.manual_seed(0))
    for x, rel in ((torch.full((5_000_003,), size), 1e-7), (random, 1e-9)):
        (found,) = squares([x]).tolist()
        exact = math.fsum((piece.double() ** 2).sum().item() for piece in x.split(32_000))
        assert math.sqrt(found) == pytest.approx(math.sqrt(exact), rel=rel, abs=0)


def test_the_norm_of_a_layer_does_not_lose_digits_as_it_grows() -> None:
    x = nn.Parameter(torch.full((5_000_000,), 0.1))
    x.grad = torch.ones_like(x)
    optimizer = LAMB([x], fused=True)
    optimizer.step()
    assert optimizer.trust_ratios()["0.0"].weight_norm == pytest.approx(5e6**0.5 * float(torch.tensor(0.1)), rel=1e-7)


def test_squares_refuse_what_they_cannot_see() -> None:
    assert squares([torch.ones(3, dtype=torch.float64)]) is None
    assert squares([torch.ones(3, 4)[:, ::2]]) is None
    assert squares([torch.ones(3, 4).t(), torch.tensor(2.0), torch.ones(0, 3)]).tolist() == [12, 4, 0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_nonfinite_layer_spoils_itself_only(native: Any, large: Any, bad: Any) -> None:
    xs, gradients = large()
    control, params = parameters(xs), parameters(xs)
    run(native.make(control, lr=0.01, fused=True), control, gradients)
    gradients[1][3][17] = bad
    run(native.make(params, lr=0.01, fused=True), params, gradients)
    assert params[3].isnan().any()
    assert all(torch.equal(p, x) for i, (p, x) in enumerate(zip(params, control, strict=True)) if i != 3)


def test_skipping_leaves_everything_as_it_was(native: Any, large: Any) -> None:
    xs, gradients = large()
    params = parameters(xs)
    optimizer = native.make(params, lr=0.01, fused=True, nonfinite="skip", max_grad_norm=1.0)
    run(optimizer, params, gradients[:2])
    before = copy.deepcopy(([p.detach() for p in params], [optimizer.state[p] for p in params]))
    gradients[2][2][3] = math.inf
    run(optimizer, params, gradients[2:])
    assert optimizer.skipped_steps == 1
    assert optimizer.nonfinite_layers == ["0.2"]
    assert all(torch.equal(p, x) for p, x in zip(params, before[0], strict=True))
    for p, state in zip(params, before[1], strict=True):
        assert all(torch.equal(value, state[name]) for name, value in optimizer.state[p].items())


@pytest.mark.parametrize("value", [0.0, 1e-42, 1e20, 3e38])
def test_extreme_weights_and_gradients(native: Any, value: Any) -> None:
    for x, g in ((value, 1.0), (1.0, value), (value, value)):
        ends = []
        for fused in (False, True):
            p = nn.Parameter(torch.full((1000,), x))
            p.grad = torch.full((1000,), g)
            native.make([p], lr=1e-3, fused=fused).step()
            ends.append(p)
        torch.testing.assert_close(ends[1], ends[0], rtol=1e-5, atol=0, equal_nan=True)


def test_gradients_are_not_written_and_parameters_count_as_changed(native: Any, large: Any) -> None:
    xs, gradients = large(steps=1)
    params = parameters(xs)
    for p, g in zip(params, gradients[0], strict=True):
        p.grad = g.clone()
    versions = [p._version for p in params]
    native.make(params, lr=0.01, fused=True, max_grad_norm=0.1).step()
    assert all(torch.equal(p.grad, g) for p, g in zip(params, gradients[0], strict=True))
    assert all(p._version > version for p, version in zip(params, versions, strict=True))


def test_memory_formats(native: Any) -> None:
    x, g = torch.randn(8, 3, 5, 5), torch.randn(8, 3, 5, 5)
    ends = []
    for weights, gradient in (
        (torch.contiguous_format, torch.contiguous_format),
        (torch.channels_last, torch.channels_last),
        (torch.channels_last, torch.contiguous_format),
    ):
        p = nn.Parameter(x.clone(memory_format=weights))
        optimizer = native.make([{"params": [p], "blocks": 2}], lr=0.1, fused=True)
        for _ in range(2):
            p.grad = g.clone(memory_format=gradient)
            optimizer.step()
        ends.append(p)
    torch.testing.assert_close(ends[1], ends[0])
    torch.testing.assert_close(ends[2], ends[0])


def test_tensors_with_gaps_take_the_plain_path_or_say_why(native: Any) -> None:
    runs = []
    for fused in (None, False):
        p, q = nn.Parameter(torch.ones(4, 6)[:, ::2]), nn.Parameter(torch.ones(5))
        optimizer = native.make([{"params": [q]}, {"params": [p]}], lr=0.1, fused=fused)
        for _ in range(3):
            p.grad, q.grad = torch.ones(4, 3), torch.ones(5)
            optimizer.step()
        runs.append((p, q))
    assert all(torch.allclose(a, b) for a, b in zip(*runs, strict=True))
    p = nn.Parameter(torch.ones(4, 6)[:, ::2])
    optimizer = native.make([("w", p)], lr=0.1, fused=True)
    p.grad = torch.ones(4, 3)
    with pytest.raises(RuntimeError, match="fused=True: w: the parameter is not dense"):
        optimizer.step()
    assert torch.equal(p, torch.ones(4, 3))


def test_parameters_that_share_memory_take_the_plain_path(native: Any) -> None:
    runs = []
    for fused in (None, False):
        memory = torch.arange(1.0, 13.0)
        params = [nn.Parameter(memory[:8]), nn.Parameter(memory[4:])]
        optimizer = native.make(params, lr=0.1, fused=fused)
        for _ in range(2):
            for p in params:
                p.grad = torch.ones_like(p)
            optimizer.step()
        runs.append(memory)
    assert torch.equal(*runs)
    params = [nn.Parameter(runs[0][:8]), nn.Parameter(runs[0][4:])]
    optimizer = native.make(params, lr=0.1, fused=True)
    for p in params:
        p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match=r"shares memory with another parameter"):
        optimizer.step()


def test_one_gradient_for_two_parameters_and_one_parameter_in_two_modules(native: Any) -> None:
    p, q, shared = (nn.Parameter(torch.arange(1.0, 5.0)) for _ in range(3))
    p.grad = q.grad = torch.tensor([1.0, -1.0, 2.0, 0.0])
    model = nn.ModuleList([nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)])
    model[1].weight = model[0].weight
    shared.grad = torch.ones(4)
    optimizer = native.make([p, q, shared, *model.parameters()], lr=0.1, fused=True)
    model[0].weight.grad = torch.ones(2, 2)
    optimizer.step()
    assert torch.equal(p, q)
    assert len(optimizer.trust_ratios()) == 4


def test_what_changes_between_steps_is_noticed(native: Any) -> None:
    """Gradients that come and go, other memory, a group, a state, hyperparameters, another dtype."""

    def changes(optimizer: Any, p: Any, q: Any) -> Any:
        yield
        q.grad = None
        yield
        p.data = p.data * 2
        yield
        optimizer.add_param_group({"params": [nn.Parameter(torch.full((3,), 2.0))], "weight_decay": 0.0})
        yield
        name = next(name for name in optimizer.state[p] if name != "step")
        optimizer.state[p][name] = optimizer.state[p][name] * 0.5
        yield
        optimizer.state[p] = {name: value.clone() for name, value in optimizer.state[p].items()}
        yield
        optimizer.param_groups[0].update(weight_decay=0.3, adapt=False)
        yield
        optimizer.param_groups[0].update(adapt=True, blocks=2)
        yield
        optimizer.state[p][name].data = optimizer.state[p][name].data.clone()
        yield
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        yield
        optimizer.zero_grad()
        yield
        del optimizer.state[p]
        yield
        p.data = torch.full((2, 3), 0.5)
        optimizer.state[p] = {}
        yield

    runs = []
    for fused in (None, False):
        p, q = nn.Parameter(torch.linspace(0.1, 2, 8).view(4, 2)), nn.Parameter(torch.linspace(-1, 1, 6).view(2, 3))
        optimizer, steps = native.make([p, q], lr=0.05, fused=fused), []
        for _ in changes(optimizer, p, q):
            for each in [p for group in optimizer.param_groups for p in group["params"]]:
                each.grad = None if each is q and len(steps) == 1 else torch.full_like(each, 0.3) + each.detach()
            optimizer.step()
            steps.append(
                [p.detach().clone(), q.detach().clone(), *(r.weight_norm for r in optimizer.trust_ratios().values())]
            )
        runs.append(steps)
    for fused, plain in zip(*runs, strict=True):
        for a, b in zip(fused, plain, strict=True):
            torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=1e-5, atol=1e-6)


def test_gradients_are_let_go_after_the_step(native: Any) -> None:
    import weakref

    params = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    optimizer = native.make(params, lr=0.1, fused=True, nonfinite="skip")
    for value in (1.0, 1.0, math.nan):
        for p in params:
            p.grad = torch.full((3,), value)
        kept = [weakref.ref(p.grad) for p in params]
        optimizer.step()
        optimizer.zero_grad()
        assert all(reference() is None for reference in kept), value


def test_plain_and_fused_states_are_each_others(native: Any, large: Any) -> None:
    xs, gradients = large(steps=4)
    params = parameters(xs)
    run(native.make(params, lr=0.01, fused=False), params, gradients)
    for kinds in ((True, False), (False, True)):
        others = parameters(xs)
        first, second = (native.make(others, lr=0.01, fused=kind) for kind in kinds)
        run(first, others, gradients[:2])
        saved = first.state_dict()
        for group in saved["param_groups"]:
            group["fused"] = kinds[1]
        second.load_state_dict(saved)
        run(second, others, gradients[2:])
        for p, x in zip(others, params, strict=True):
            torch.testing.assert_close(p, x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copy", "pickle"])
def test_copies_have_memory_of_their_own(native: Any, large: Any, twin: Any) -> None:
    xs, gradients = large(steps=4)
    params = parameters(xs)
    optimizer = native.make(params, lr=0.01, fused=True)
    run(optimizer, params, gradients[:2])
    others, other = twin((params, optimizer))
    run(other, others, gradients[2:])
    assert not any(torch.equal(p, x) for p, x in zip(params, others, strict=True))
    run(optimizer, params, gradients[2:])
    assert all(torch.equal(p, x) for p, x in zip(params, others, strict=True))


def test_a_tensor_lr_and_lr_zero(native: Any) -> None:
    p = nn.Parameter(torch.tensor([3.0, 4.0]))
    lr = torch.tensor(0.0)
    optimizer = native.make([p], lr=lr, fused=True)
    p.grad = torch.ones(2)
    optimizer.step()
    assert p.tolist() == [3.0, 4.0]
    lr.fill_(0.1)
    optimizer.step()
    assert p.norm() < 5


def test_huge_weight_decay(native: Any) -> None:
    ends = []
    for fused in (False, True):
        p = nn.Parameter(torch.linspace(0.1, 1, 100))
        p.grad = torch.full((100,), 1e-3)
        native.make([p], lr=0.1, weight_decay=1e30, fused=fused).step()
        ends.append(p)
    torch.testing.assert_close(*ends)


@pytest.mark.parametrize(
    ("dtype", "settings", "message"),
    [
        (torch.float64, {}, r"fp32 and bf16 parameters, not torch\.float64"),
        (torch.float16, {}, r"not torch\.float16"),
        (torch.float32, {"norm": "linf"}, "norm='l2' alone, not 'linf'"),
    ],
)
def test_what_cannot_be_fused_is_refused_by_name(native: Any, dtype: torch.dtype, settings: Any, message: str) -> None:
    p = nn.Parameter(torch.ones(3, dtype=dtype))
    with pytest.raises(ValueError, match=f"fused=True: .*{message}"):
        native.make([p], lr=0.1, fused=True, **settings)
    p.grad = torch.ones_like(p)
    native.make([p], lr=0.1, **settings).step()
    assert not torch.equal(p, torch.ones_like(p))


def test_norms_of_the_oracle(problem: Any) -> None:
    params = problem.params(torch.float32)
    optimizer = LARS(params, 0.1, fused=True)
    problem.run(optimizer, params, slice(1))
    for i, ratio in enumerate(optimizer.trust_ratios().values()):
        x = problem.xs[i].astype(np.float32).astype(np.float64)
        assert ratio.weight_norm == pytest.approx(oracle.size(x, "l2"), rel=1e-7)
