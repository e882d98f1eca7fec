"""The Triton programs, interpreted on the CPU: what they compute. What they cost, and races, need a GPU.

With TRITON_INTERPRET=0 on a machine with a GPU, the same tests run there, compiled.
"""

import copy
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from support.steps import Waits, assert_bitwise, expected, groups, snapshot

from anybatch.optim import LAMB, LARS, kernels, sharding
from anybatch.optim.parts import Part
from anybatch.optim.sharding import Layout, Piece

pytest.importorskip("triton")

from support import triton_machine_code

from anybatch.optim.kernels import triton

pytestmark = pytest.mark.without_kernels  # those in C

INTERPRETED = os.environ["TRITON_INTERPRET"] != "0"
DEVICE = "cpu" if INTERPRETED else "cuda"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Triton for every device, and chunks so short that a layer of the tests has several."""
    monkeypatch.setitem(kernels.BACKENDS, DEVICE, "anybatch.optim.kernels.triton")
    monkeypatch.setattr(triton, "CHUNK", 16)
    monkeypatch.setattr(triton, "BLOCK", 8)
    kernels.kernels_for.cache_clear()
    with np.errstate(all="ignore"):  # the interpreter computes with NumPy, which speaks of every NaN
        yield
    kernels.kernels_for.cache_clear()


def after(problem: Any, make: Any, dtype: torch.dtype = torch.float32) -> Any:
    params = problem.params(dtype, DEVICE)
    optimizer = make(params)
    problem.run(optimizer, params)
    return params, optimizer


def distance(params: Any, xs: Any) -> Any:
    return math.sqrt(
        sum(np.square(p.detach().cpu().double().numpy() - x).sum() for p, x in zip(params, xs, strict=True))
    )


@pytest.mark.slow
def test_as_near_the_oracle_as_the_plain_path(native_row: Any, problem: Any) -> None:
    if native_row.settings.get("norm", "l2") != "l2":
        with pytest.raises(ValueError, match="fused=True: the kernels have norm='l2' alone"):
            native_row.make(problem.params(torch.float32, DEVICE), fused=True)
        return
    exact = expected(native_row, problem)
    plain, plain_optimizer = after(problem, lambda params: native_row.make(groups(params), foreach=False))
    fused, optimizer = after(problem, lambda params: native_row.make(groups(params), fused=True))
    assert distance(fused, exact) < 2 * distance(plain, exact) + 1e-7
    theirs, ours = plain_optimizer.trust_ratios(), optimizer.trust_ratios()
    assert list(ours) == list(theirs)
    for name, ratio in ours.items():
        assert ratio == pytest.approx(theirs[name], rel=1e-5), name


@pytest.mark.slow
def test_every_size_and_place_in_memory(native: Any) -> None:
    random = torch.Generator().manual_seed(0)
    sizes = [*range(1, 20), 32, 40, 47, 64, 101]
    flat = torch.randn(sum(sizes), generator=random).to(DEVICE)

    def shaped(*shape: Any) -> Any:
        return torch.randn(shape, generator=random).to(DEVICE)

    views = list(flat.split(sizes))  # most of them begin where no vector can be loaded
    strange = [shaped(4, 6).t(), shaped(6, 8)[:, ::2], shaped(2, 3, 2, 2).to(memory_format=torch.channels_last)]
    whole = [*views, shaped(), shaped(0, 3), *strange, shaped(6, 4).t()]
    blocks = [shaped(4, 6).t(), shaped(6, 5), shaped(0, 2)]
    runs = []
    for how in ({"fused": True}, {"foreach": False}):
        params = [torch.nn.Parameter(x.clone(memory_format=torch.preserve_format)) for x in (*whole, *blocks)]
        split = [{"params": params[: len(whole)]}, {"params": params[len(whole) :], "blocks": 3}]
        optimizer = native.make(split, lr=0.1, **how)
        gradients = torch.Generator().manual_seed(1)
        for _ in range(2):
            for i, p in enumerate(params):
                p.grad = torch.randn(p.shape, generator=gradients).to(DEVICE)
                if i == len(whole) - 1:
                    p.grad = torch.empty_like(p).copy_(p.grad)
            optimizer.step()
        runs.append((params, optimizer))
    for p, x in zip(runs[0][0], runs[1][0], strict=True):
        torch.testing.assert_close(p, x, rtol=2e-6, atol=2e-6)
    for p, x in zip(runs[0][0], runs[1][0], strict=True):
        for name, value in runs[1][1].state[x].items():
            torch.testing.assert_close(runs[0][1].state[p][name], value, rtol=2e-6, atol=2e-6, check_device=False)


def assert_rounded(p: Any, x: Any) -> None:
    """The GPU rounds to the nearest; the interpreter cuts bf16 off, and so may be one unit in the last place away."""
    if INTERPRETED and p.dtype is torch.bfloat16:
        torch.testing.assert_close(p.float(), x, rtol=2**-7, atol=0.0)
    else:
        assert torch.equal(p, x.to(p.dtype))


def test_narrow_parameters_with_masters_are_fp32_rounded(native: Any, problem: Any) -> None:
    problem.xs = [torch.tensor(x).bfloat16().double().numpy() for x in problem.xs]
    problem.gradients = [[torch.tensor(g).bfloat16().double().numpy() for g in gs] for gs in problem.gradients]
    wide, _ = after(problem, lambda params: native.make(params, fused=True))
    narrow, optimizer = after(
        problem, lambda params: native.make(params, master_weights=True, fused=True), torch.bfloat16
    )
    for p, x in zip(narrow, wide, strict=True):
        assert torch.equal(optimizer.state[p]["master"], x)
        assert_rounded(p, x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_parameters_without_masters_round_once_a_step(native: Any, problem: Any, dtype: torch.dtype) -> None:
    problem.xs = [torch.tensor(x).to(dtype).double().numpy() for x in problem.xs]
    problem.gradients = [[torch.tensor(g).to(dtype).double().numpy() for g in problem.gradients[0]]]
    problem.rates = problem.rates[:1]
    wide, _ = after(problem, lambda params: native.make(params, fused=True))
    narrow, optimizer = after(problem, lambda params: native.make(params, fused=True), dtype)
    for p, x in zip(narrow, wide, strict=True):
        assert_rounded(p, x)
        assert all(state.dtype == torch.float32 for state in optimizer.state[p].values())


@pytest.mark.parametrize("max_grad_norm", [0.5, 1e6])
def test_clipping_is_the_plain_paths(native: Any, problem: Any, max_grad_norm: float | None) -> None:
    settings = {"max_grad_norm": max_grad_norm, "maximize": True}
    plain, _ = after(problem, lambda params: native.make(groups(params), foreach=False, **settings))
    fused, _ = after(problem, lambda params: native.make(groups(params), fused=True, **settings))
    for p, x in zip(fused, plain, strict=True):
        torch.testing.assert_close(p, x, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_clipping_leaves_a_nonfinite_layer_out(native: Any, problem: Any, bad: Any) -> None:
    problem.gradients, problem.rates = problem.gradients[:2], problem.rates[:2]
    problem.gradients[1][0][:] = 0
    control, _ = after(problem, lambda params: native.make(params, max_grad_norm=0.1, fused=True))
    problem.gradients[1][0][5, 1] = bad
    params, _ = after(problem, lambda params: native.make(params, max_grad_norm=0.1, fused=True))
    assert not params[0].isfinite().all()
    assert all(torch.equal(p, x) for p, x in zip(params[1:], control[1:], strict=True))


@pytest.mark.parametrize("steps", [0, 2], ids=["first step", "third step"])
def test_skip_leaves_everything_bitwise_and_counts(native: Any, problem: Any, steps: Any) -> None:
    params = problem.params(torch.float32, DEVICE)
    named = [(f"layer{i}", p) for i, p in enumerate(params)]
    optimizer = native.make(named, nonfinite="skip", max_grad_norm=1.0, fused=True)
    problem.run(optimizer, params, slice(steps))
    before, ratios = snapshot(optimizer, params), optimizer.trust_ratios()
    problem.gradients[steps][3][1, 1, 1] = math.nan
    problem.run(optimizer, params, slice(steps, steps + 1))
    assert_bitwise(snapshot(optimizer, params), before)
    assert optimizer.skipped_steps == 1
    assert optimizer.nonfinite_layers == ["layer3"]
    assert optimizer.trust_ratios() == ratios
    problem.run(optimizer, params, slice(steps + 1, None))
    assert optimizer.skipped_steps == 1
    assert not torch.equal(params[0], before[0][0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
def test_capturable_never_waits_and_follows_the_rate_on_the_device(
    native: Any, problem: Any, max_grad_norm: float | None, dtype: torch.dtype
) -> None:
    lr = torch.tensor(0.0, dtype=dtype, device=DEVICE)
    params = problem.params(torch.float32, DEVICE)
    optimizer = native.make(params, lr=lr, capturable=True, max_grad_norm=max_grad_norm, fused=True)
    plain = problem.params(torch.float32, DEVICE)
    control = native.make(plain, max_grad_norm=max_grad_norm, foreach=False)
    problem.run(control, plain)
    for gradients, rate in zip(problem.gradients, problem.rates, strict=True):
        lr.fill_(rate)
        for p, g in zip(params, gradients, strict=True):
            p.grad = torch.tensor(g, dtype=torch.float32, device=DEVICE)
        with Waits() as waits:
            optimizer.step()
        assert waits.count == 0
    assert optimizer.param_groups[0]["lr"] is lr
    for p, x in zip(params, plain, strict=True):
        torch.testing.assert_close(p, x, rtol=2e-6, atol=2e-6)


def test_gradients_are_never_written_and_runs_repeat_bitwise(native: Any, problem: Any) -> None:
    runs = []
    for _ in range(2):
        params = problem.params(torch.float32, DEVICE)
        optimizer = native.make(params, fused=True, max_grad_norm=0.1, nonfinite="skip")
        for gradients in problem.gradients[:2]:
            for p, g in zip(params, gradients, strict=True):
                p.grad = torch.tensor(g, dtype=torch.float32, device=DEVICE)
            given = [p.grad.clone() for p in params]
            optimizer.step()
            assert all(torch.equal(p.grad, g) for p, g in zip(params, given, strict=True))
        runs.append(params)
    assert all(torch.equal(p, x) for p, x in zip(*runs, strict=True))


def test_parameters_come_and_go(native: Any, problem: Any) -> None:
    """Tables follow what has a gradient, what the user puts in the place of a tensor, and the settings."""
    runs = []
    for how in ({"fused": True}, {"foreach": False}):
        params = problem.params(torch.float32, DEVICE)
        optimizer = native.make(params, lr=0.1, **how)
        for step in range(4):
            for i, (p, g) in enumerate(zip(params, problem.gradients[step], strict=True)):
                p.grad = None if (i + step) % 3 == 0 else torch.tensor(g, dtype=torch.float32, device=DEVICE)
            if step == 2:
                params[1].data = params[1].data.clone() * 2
                optimizer.param_groups[0]["weight_decay"] = 0.5
                optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            optimizer.step()
        runs.append(params)
    for p, x in zip(*runs, strict=True):
        torch.testing.assert_close(p, x, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("fused", [(True, False), (False, True)], ids=["to plain", "from plain"])
def test_a_run_goes_on_on_another_path(native: Any, problem: Any, fused: Any) -> None:
    params, control = problem.params(torch.float32, DEVICE), problem.params(torch.float32, DEVICE)
    optimizer = native.make(params, fused=fused[0])
    problem.run(optimizer, params, slice(3))
    resumed = native.make(params, fused=fused[1])
    state_dict = optimizer.state_dict()
    state_dict["param_groups"][0]["fused"] = fused[1]
    resumed.load_state_dict(state_dict)
    problem.run(resumed, params, slice(3, None))
    problem.run(native.make(control, foreach=False), control)
    for p, x in zip(params, control, strict=True):
        torch.testing.assert_close(p, x, rtol=2e-6, atol=2e-6)


def test_extreme_sizes(native: Any) -> None:
    """Squares are summed in float64: nothing overflows or vanishes."""
    params = [torch.nn.Parameter(torch.full((2,), size, device=DEVICE)) for size in (1e20, 1e-20, 0.0, 1.0)]
    control = [torch.nn.Parameter(p.detach().clone()) for p in params]
    for optimizer in (native.make(params, lr=0.1, fused=True), native.make(control, lr=0.1, foreach=False)):
        for p, g in zip(optimizer.param_groups[0]["params"], (1e-42, 1e20, 1.0, 0.0), strict=True):
            p.grad = torch.full((2,), g, device=DEVICE)
        optimizer.param_groups[0]["weight_decay"] = 0.0
        optimizer.step()
    for p, x in zip(params, control, strict=True):
        assert p.isfinite().all()
        torch.testing.assert_close(p, x, rtol=2e-6, atol=0.0)


def test_what_cannot_be_fused_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match=r"fused=True: on a GPU the kernels step fp32, bf16 and fp16 .*, not torch\.float64"
    ):
        LAMB([torch.nn.Parameter(torch.ones(2, dtype=torch.float64, device=DEVICE))], fused=True)
    monkeypatch.setitem(kernels.BACKENDS, DEVICE, "anybatch.optim.kernels.nowhere")
    kernels.kernels_for.cache_clear()
    with pytest.raises(ValueError, match=r"fused=True: the kernels for .* cannot be imported: .*nowhere"):
        LARS([torch.nn.Parameter(torch.ones(2, device=DEVICE))], 0.1, fused=True)


class OneRankOfTwo:
    """As much of a device mesh as a step asks for."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def get_local_rank(self, dimension: Any) -> Any:
        return self.rank


def test_layers_that_ranks_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three layers in a tensor that is cut inside the second, and a tensor that both ranks hold whole.

    Each rank steps twice from the same start: to hear what it sends, and with the sum of what both have sent.
    """
    random = torch.Generator().manual_seed(0)
    whole = [torch.nn.Parameter(torch.randn(*shape, generator=random).to(DEVICE)) for shape in ((6, 9), (3, 7))]
    for p in whole:
        p.grad = torch.randn(p.shape, generator=random).to(DEVICE)
    optimizer = LAMB([{"params": list(zip(("qkv", "both"), whole, strict=True)), "blocks": 3}], lr=0.1, foreach=False)
    pieces = [
        (Piece(0, 2, 0, 1), Piece(2, 3, 1, 1)),
        (Piece(0, 1, 1, 1), Piece(1, 3, 2, 1)),
    ]
    start = [p.detach().clone() for p in whole]
    sent = []

    def step_of(rank: int, total: Any) -> Any:
        part = Part(optimizer.param_groups[0], whole[0].device, torch.float32, OneRankOfTwo(rank), ["qkv", "both"])
        rows = slice(3 * rank, 3 * rank + 3)
        part.params = part.locals = [start[0][rows].clone(), start[1].clone()]
        part.grads = [whole[0].grad[rows], whole[1].grad]
        both = (Piece(0, 3, 0, 3),)
        part.layouts = [Layout(3, pieces[rank], frozenset({0})), Layout(3, both, frozenset())]
        part.states = [optimizer._new_state(optimizer.param_groups[0], p) for p in part.params]

        def reduce_over(packed: Any, mesh: Any, dims: Any, op: Any) -> None:
            assert dims == frozenset({0})
            sent.append(packed.clone())
            if total is not None:
                packed.copy_(total)

        monkeypatch.setattr(sharding, "reduce_over", reduce_over)
        (columns,) = triton.Launches(LAMB._state_names).step([part], None)
        return part, columns

    for rank in range(2):
        step_of(rank, None)
    ranks = [step_of(rank, sum(sent[:2])) for rank in range(2)]
    optimizer.step()
    torch.testing.assert_close(
        torch.cat([part.locals[0] for part, _ in ranks]), whole[0].detach(), rtol=1e-6, atol=1e-6
    )
    for part, columns in ranks:
        torch.testing.assert_close(part.locals[1], whole[1].detach(), rtol=1e-6, atol=1e-6)
        assert torch.equal(columns, ranks[0][1])
        assert [state["step"].item() for state in part.states] == [1, 1]
    expected = torch.tensor([list(map(float, row)) for row in optimizer.trust_ratios().values()], dtype=torch.float64)
    torch.testing.assert_close(ranks[0][1].cpu(), expected.T, rtol=1e-6, atol=0.0)


@pytest.mark.slow
def test_machine_code() -> None:
    """Compiled without a GPU, since a compiler is all that it takes."""
    done = subprocess.run(
        [sys.executable, triton_machine_code.__file__], capture_output=True, text=True, timeout=240,
        env={**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 2 * len(triton_machine_code.PROGRAMS)
    for program in found:
        assert program["contracted"] == program["approximate"] == program["local_memory"] == 0, program
        if program["program"] != "add_up_layers":
            assert program["wide_loads"], program  # aligned chunks move 16 bytes a thread
            assert program["single_loads"], program  # the others must not: an address in the middle of 16 bytes faults
        if program["program"] == "look_at_gradients":
            assert program["order"].count("atomic") == 2
            first, second = [i for i, word in enumerate(program["order"]) if word == "atomic"]
            assert "store" in program["order"][:first]
            assert program["order"][first:second].index("past L1") > 0
            assert "past L1" in program["order"][second:]
