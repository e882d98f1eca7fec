"""BatchNorm's running statistics as a function of the global batch, however it is cut."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from anybatch.engine.ranks import Ranks


class RunningStatistics:
    """Moves a model's running statistics once a step, by the mean statistics of its groups of examples.

        r <- (1 - momentum) r + momentum * mean over all groups of the global batch of s(group)

    A layer by itself moves them at every forward pass, so they would depend on the order of the groups and on the
    rank. So every forward pass starts from the statistics before the step, and its results are averaged over all
    counted passes, on all ranks. With one group a step, the result is bit for bit the layer's.
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
        """Starts a step."""
        if not self.layers:
            return
        self._buffers = [buffer for layer in self.layers for buffer in layer.buffers(recurse=False)]
        self._before = [buffer.clone() for buffer in self._buffers]
        self._sum = torch.zeros_like(self._flat())
        self._count = 0

    @contextmanager
    def watching(self, counts: bool) -> Iterator[None]:
        """A block with one forward pass in training mode; if it does not count, it leaves no trace."""
        if not self.layers:
            yield
            return
        self.forget()
        yield
        if counts:
            self._sum += self._flat()
            self._count += 1

    def forget(self) -> None:
        """Restores the statistics before the step."""
        for buffer, before in zip(self._buffers, self._before, strict=True):
            buffer.copy_(before)

    def settle(self, ranks: Ranks) -> None:
        """Ends a step: sets the same statistics on every rank."""
        if not self.layers:
            return
        count = torch.full((1,), float(self._count), dtype=torch.float64, device=self._sum.device)
        total = ranks.sum(torch.cat([self._sum, count]), "averaging running statistics")
        mean = total[:-1] / total[-1]
        for buffer, value in zip(self._buffers, torch.split(mean, [b.numel() for b in self._buffers]), strict=True):
            buffer.copy_(value.view_as(buffer))

    def _flat(self) -> Tensor:
        return torch.cat([buffer.detach().flatten().double() for buffer in self._buffers])
