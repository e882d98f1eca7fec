"""Compiled steps: one graph that keeps its trust ratios, and nothing compiled anew as numbers and counts go on."""

import warnings
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from anybatch.optim import LAMB, LARS, Layerwise

# What dynamo itself imports.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")

RATES = [0.1, 0.09, 0.08, 0.07, 0.06, 0.05]
NATIVE = {
    "LAMB foreach clipped capturable": lambda params, lr: LAMB(
        params, lr, foreach=True, max_grad_norm=1.0, capturable=True
    ),
    "LAMB blocks": lambda params, lr: LAMB([{"params": params[:1], "blocks": 3}, {"params": params[1:]}], lr),
    "LARS 2017 Nesterov": lambda params, lr: LARS(params, lr, form="lars-2017", nesterov=True),
}
LAYERWISE = {
    "AdamW": lambda params, lr: Layerwise(torch.optim.AdamW(params, lr=lr)),
    "SGD": lambda params, lr: Layerwise(torch.optim.SGD(params, lr=lr, momentum=0.9)),
}


def train(make: Any, tensor_lr: Any, compiled: Any) -> Any:
    """Parameters after a few steps, and after each step how many graphs there were."""
    torch._dynamo.reset()
    counters.clear()
    random = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, generator=random)) for shape in ((6, 4), (5,), ())]
    optimizer = make(params, torch.tensor(RATES[0]) if tensor_lr else RATES[0])
    step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
    graphs = []
    for rate in RATES:
        for group in optimizer.param_groups:
            group["lr"] = group["lr"].fill_(rate) if tensor_lr else rate
        for p in params:
            p.grad = torch.randn(p.shape, generator=random)
        step()
        graphs.append(counters["stats"]["unique_graphs"])
    return params, graphs


@pytest.mark.parametrize("tensor_lr", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("make", NATIVE.values(), ids=NATIVE)
def test_a_step_is_one_graph_and_the_count_compiles_nothing_anew(make: Any, tensor_lr: Any) -> None:
    """A number that changes once is compiled once more, as a number that may change."""
    found, graphs = train(make, tensor_lr, compiled=True)
    assert not counters["graph_break"]
    assert graphs == ([1] * 6 if tensor_lr else [1, 2, 2, 2, 2, 2])
    for p, x in zip(found, train(make, tensor_lr, compiled=False)[0], strict=True):
        torch.testing.assert_close(p, x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("tensor_lr", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("make", LAYERWISE.values(), ids=LAYERWISE)
def test_layerwise_compiles_nothing_anew_after_its_second_step(make: Any, tensor_lr: Any) -> None:
    """PyTorch's optimizers break the graph themselves, around their own step."""
    found, graphs = train(make, tensor_lr, compiled=True)
    assert graphs[1:] == [graphs[1]] * 5
    for p, x in zip(found, train(make, tensor_lr, compiled=False)[0], strict=True):
        torch.testing.assert_close(p, x, rtol=1e-6, atol=1e-6)


WHOLE = {
    "lamb": lambda params: LAMB(params, torch.tensor(0.1), foreach=False),
    "lamb foreach": lambda params: LAMB(params, torch.tensor(0.1), foreach=True, nesterov="mv", norm="linf"),
    "lamb clipped": lambda params: LAMB(params, torch.tensor(0.1), max_grad_norm=1.0),
    "lamb masters": lambda params: LAMB(
        [p.detach().bfloat16() for p in params], torch.tensor(0.1), master_weights=True
    ),
    "lars": lambda params: LARS(params, torch.tensor(0.1), form="lars-2017", weight_decay=0.1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_one_graph_however_many_steps(problem: Any, name: str) -> None:
    torch._dynamo.reset()
    counters.clear()
    pairs = []
    for _ in range(2):
        optimizer = WHOLE[name](problem.params(torch.float32)[:4])
        pairs.append((optimizer, optimizer.param_groups[0]["params"]))
    (compiled, xs), (control, ys) = pairs
    step = torch.compile(compiled.step, backend="aot_eager", fullgraph=True)
    for gradients, rate in zip(problem.gradients, problem.rates, strict=True):
        for p, q, g in zip(xs, ys, gradients, strict=False):
            p.grad, q.grad = torch.tensor(g, dtype=p.dtype), torch.tensor(g, dtype=p.dtype)
        compiled.param_groups[0]["lr"].fill_(rate)
        control.param_groups[0]["lr"].fill_(rate)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            step()
        control.step()
    for x, y in zip(xs, ys, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert compiled.trust_ratios().keys() == control.trust_ratios().keys() != set()
    for layer, ratio in control.trust_ratios().items():
        assert compiled.trust_ratios()[layer] == pytest.approx(ratio, rel=1e-4)


@pytest.mark.slow
def test_a_compiled_step_skips_and_says_so(problem: Any) -> None:
    torch._dynamo.reset()
    params = problem.params()
    optimizer = LAMB(params, nonfinite="skip")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        step = torch.compile(optimizer.step, backend="eager")
        for g, spoiled in ((1.0, False), (float("nan"), True), (1.0, False)):
            for p in params:
                p.grad = torch.full_like(p, g)
            before = [p.clone() for p in params]
            step()
            assert all(torch.equal(p, x) for p, x in zip(params, before, strict=True)) is spoiled
    assert optimizer.skipped_steps == 1
    assert optimizer.state[params[0]]["step"] == 2


def test_grad_scaler(native: Any, problem: Any) -> None:
    params, control = problem.params(torch.float32), problem.params(torch.float32)
    optimizer, expected = native.make(params), native.make(control)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=100)
    for step, gradients in enumerate(problem.gradients):
        for p, q, g in zip(params, control, gradients, strict=True):
            q.grad = torch.tensor(g, dtype=torch.float32)
            p.grad = q.grad * scaler.get_scale()
            if step == 2:
                p.grad = p.grad + float("inf")
        scaler.scale(torch.tensor(1.0))
        scaler.step(optimizer)
        scaler.update()
        if step != 2:
            expected.step()
    assert scaler.get_scale() == 2.0
    for p, q in zip(params, control, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=0)
