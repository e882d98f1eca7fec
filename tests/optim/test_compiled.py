"""Compiled steps under a rate that changes: nothing is compiled anew as numbers and counts go on."""

import pytest
import torch
from torch._dynamo.utils import counters

from anybatch.optim import LAMB, LARS, Layerwise

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


def train(make, tensor_lr, compiled):
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
def test_a_step_is_one_graph_and_the_count_compiles_nothing_anew(make, tensor_lr):
    """A number that changes once is compiled once more, as a number that may change."""
    found, graphs = train(make, tensor_lr, compiled=True)
    assert not counters["graph_break"]
    assert graphs == ([1] * 6 if tensor_lr else [1, 2, 2, 2, 2, 2])
    for p, x in zip(found, train(make, tensor_lr, compiled=False)[0], strict=True):
        torch.testing.assert_close(p, x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("tensor_lr", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("make", LAYERWISE.values(), ids=LAYERWISE)
# What dynamo imports for PyTorch's own optimizers.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_layerwise_compiles_nothing_anew_after_its_second_step(make, tensor_lr):
    """PyTorch's optimizers break the graph themselves, around their own step."""
    found, graphs = train(make, tensor_lr, compiled=True)
    assert graphs[1:] == [graphs[1]] * 5
    for p, x in zip(found, train(make, tensor_lr, compiled=False)[0], strict=True):
        torch.testing.assert_close(p, x, rtol=1e-6, atol=1e-6)
