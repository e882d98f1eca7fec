"""A factor of the step's gradients: what scaling them beforehand would give, to the bit, and they stay as they are."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anybatch.optim import LAMB, LARS


def stepped(kind: Any, options: dict[str, Any], factor: float, before: bool) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(3)
    params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((7, 5), (33,), (4, 3, 2))]
    optimizer = kind(params, lr=0.1, **options)
    for _ in range(3):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
            if before:
                p.grad.mul_(factor)
        optimizer.gradient_scale = 1.0 if before else factor
        optimizer.step()
    return [p.detach() for p in params], [p.grad for p in params if p.grad is not None]


@pytest.mark.parametrize("options", [{}, {"fused": False}, {"foreach": True}, {"maximize": True}], ids=str)
@pytest.mark.parametrize("kind", [LAMB, LARS])
def test_it_is_as_if_the_gradients_had_been_scaled(kind: Any, options: dict[str, Any]) -> None:
    found, grads = stepped(kind, options, 0.3, before=False)
    known, scaled = stepped(kind, options, 0.3, before=True)
    assert all(map(torch.equal, found, known))
    assert not any(map(torch.equal, grads, scaled)), "the gradients are not ours to change"


def test_it_comes_beside_the_optimizers_own_clipping() -> None:
    found, _ = stepped(LAMB, {"max_grad_norm": 1e-3}, 0.3, before=False)
    once, _ = stepped(LAMB, {"max_grad_norm": 1e-3}, 1.0, before=False)
    assert not torch.equal(found[0], once[0])
