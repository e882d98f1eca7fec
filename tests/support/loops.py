"""A model, data and a loop without any library, which every integration is held to."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

BATCH, MICRO_BATCH = 32, 8


class Network(nn.Module):
    """Takes and returns what the Trainer does; any loop can call it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.LayerNorm(24), nn.Linear(24, 4))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.net(x)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


def network() -> Network:
    """The same weights each time."""
    torch.manual_seed(0)
    return Network()


def examples(count: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and labels, which a network can learn."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 16, generator=generator)
    return x, (x @ torch.randn(16, 4, generator=generator)).argmax(dim=1)


def by_hand(
    model: Network,
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    num_steps: int,
    after_backward: Callable[[], None] = lambda: None,
    before_step: Callable[[], None] = lambda: None,
    before: Callable[..., None] = lambda *_: None,
    clip: float | None = None,
) -> list[torch.Tensor]:
    """The parameters after `num_steps` of BATCH examples in order, a mean over micro-batches of MICRO_BATCH."""
    x, labels = examples()
    for step in range(num_steps):
        first = step * BATCH % len(x)
        for low in range(first, first + BATCH, MICRO_BATCH):
            part = slice(low, low + MICRO_BATCH)
            before(x[part], labels[part])
            (model(x[part], labels[part])["loss"] / (BATCH // MICRO_BATCH)).backward()
            after_backward()
        before_step()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return [p.detach().clone() for p in model.parameters()]


def equal(model: nn.Module, expected: list[torch.Tensor]) -> bool:
    return all(torch.equal(p, other) for p, other in zip(model.parameters(), expected, strict=True))
