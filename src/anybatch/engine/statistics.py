"""BatchNorm's running statistics as a function of the global batch, however it is cut."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from anybatch.engine.ranks import Ranks


class RunningStatistics:
    """Moves the running statistics of a model once a step, by what its groups of examples have on the mean.

        r <- (1 - momentum) r + momentum * mean over all groups of the global batch of s(group)

    A layer by itself moves them at every forward pass, so that they would depend on the order of the groups and on the
    rank that has seen them. Every forward pass therefore starts from the statistics before the step, and what it leaves
    is averaged over all that count, on all ranks. One group a step is what the layer does by itself, bit for bit.
    """

    def __init__(self, module: nn.Module) -> None:
        self.layers = [
            layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.running_mean is not None
        ]
        self._buffers: list[Tensor] = []
        self._before: list[Tensor] = []
        self._sum = torch.zeros(0, dtype=torch.float64)
        self._count = 0

    def begin(self) -> None:
        """At the start of a step."""
        if not self.layers:
            return
        self._buffers = [buffer for layer in self.layers for buffer in layer.buffers(recurse=False)]
        self._before = [buffer.clone() for buffer in self._buffers]
        self._sum = torch.zeros_like(self._flat())
        self._count = 0

    @contextmanager
    def watching(self, counts: bool) -> Iterator[None]:
        """A block with one forward pass in training mode; where it does not count, it leaves no trace."""
        if not self.layers:
            yield
            return
        self.forget()
        yield
        if counts:
            self._sum += self._flat()
            self._count += 1

    def forget(self) -> None:
        """Puts back the statistics before the step."""
        for buffer, before in zip(self._buffers, self._before, strict=True):
            buffer.copy_(before)

    def settle(self, ranks: Ranks) -> None:
        """At the end of a step: the same statistics on every rank."""
        if not self.layers:
            return
        count = torch.full((1,), float(self._count), dtype=torch.float64, device=self._sum.device)
        total = ranks.sum(torch.cat([self._sum, count]), "averaging running statistics")
        mean = total[:-1] / total[-1]
        for buffer, value in zip(self._buffers, torch.split(mean, [b.numel() for b in self._buffers]), strict=True):
            buffer.copy_(value.view_as(buffer))

    def _flat(self) -> Tensor:
        return torch.cat([buffer.detach().flatten().double() for buffer in self._buffers])
