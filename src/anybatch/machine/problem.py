"""Parameters, gradients and states of one set of shapes, shared by all contenders."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from anybatch.environment import half_of_memory
from anybatch.machine.shapes import Shape

# Parameters, gradients and two states; and the extra memory of a foreach step and of a jitted step with its own
# buffers.
_BYTES_SHARED = 16
_BYTES_BESIDE = 24


class Unavailable(Exception):
    """A contender is not installed, does not fit, or does not work on this machine; the message is short."""


class Problem:
    """fp32 parameters with gradients, and two states that all optimizers share, so that all fit the memory.

    Raises:
        Unavailable: it does not fit the free memory.
    """

    def __init__(self, shapes: Sequence[Shape], device: torch.device) -> None:
        self.device = device
        self.numel = sum(torch.Size(shape).numel() for shape in shapes)
        needed, free = self.numel * (_BYTES_SHARED + _BYTES_BESIDE), free_bytes(device)
        if needed > free:
            raise Unavailable(f"needs about {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free")
        random = torch.Generator().manual_seed(0)
        noise = torch.randn(1 << 16, generator=random).to(device)
        self.params = [nn.Parameter(_filled(shape, noise, 0.02)) for shape in shapes]
        for p in self.params:
            p.grad = _filled(p.shape, noise, 1e-3)
        self.first = [torch.zeros_like(p) for p in self.params]
        self.second = [torch.zeros_like(p) for p in self.params]

    @property
    def gradients(self) -> list[Tensor]:
        """Returns the parameters' gradients, in order."""
        return [p.grad for p in self.params if p.grad is not None]


def _filled(shape: Sequence[int], noise: Tensor, scale: float) -> Tensor:
    values = torch.empty(shape, device=noise.device)
    for piece in torch.split(values.view(-1), len(noise)):
        torch.mul(noise[: len(piece)], scale, out=piece)
    return values


def free_bytes(device: torch.device) -> int:
    """Returns the bytes that the device can still allocate."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return half_of_memory()
