"""torch.compile takes a step as one graph, and torch.amp's scaler drives it."""

import warnings

import pytest
import torch
import torch._dynamo

from anybatch.optim import LAMB, LARS

MAKE = {
    "lamb": lambda params: LAMB(params, torch.tensor(0.1), foreach=False),
    "lamb foreach": lambda params: LAMB(params, torch.tensor(0.1), foreach=True, nesterov="mv", norm="linf"),
    "lamb clipped": lambda params: LAMB(params, torch.tensor(0.1), max_grad_norm=1.0),
    "lamb masters": lambda params: LAMB(
        [p.detach().bfloat16() for p in params], torch.tensor(0.1), master_weights=True
    ),
    "lars": lambda params: LARS(params, torch.tensor(0.1), form="lars-2017", weight_decay=0.1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKE)
def test_one_graph_however_many_steps(problem, name):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    pairs = []
    for _ in range(2):
        optimizer = MAKE[name](problem.params(torch.float32)[:4])
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
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]
    assert compiled.trust_ratios().keys() == control.trust_ratios().keys() != set()
    for layer, ratio in control.trust_ratios().items():
        assert compiled.trust_ratios()[layer] == pytest.approx(ratio, rel=1e-4)


@pytest.mark.slow
def test_a_compiled_step_skips_and_says_so(problem):
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


def test_grad_scaler(native, problem):
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
