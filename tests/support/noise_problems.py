"""Problems whose noise scale is known in closed form, as models that a training loop can differentiate."""

import torch
from torch import Tensor, nn

from anybatch import GradientNoiseScale

DIMENSION, GLOBAL_BATCH, STEPS = 24, 32, 60


class LinearRegression(nn.Module):
    """0.5 (x . w - y)^2 with x ~ N(0, I), y = x . w* + s z: the gradient of an example is x (x . d - s z), d = w - w*.

    G = d; tr(Sigma) = E|x|^2 (x . d)^2 + s^2 D - |d|^2 = (D + 1) |d|^2 + D s^2.
    """

    def __init__(self, dimension: int, distance: float = 1.0, noise: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((dimension,), distance / dimension**0.5))
        self.noise = noise

    def forward(self, count: int, random: torch.Generator) -> Tensor:
        """The loss summed over `count` fresh examples; w* = 0."""
        x = torch.randn(count, len(self.weight), generator=random)
        target = self.noise * torch.randn(count, generator=random)
        return 0.5 * (x @ self.weight - target).square().sum()

    @property
    def noise_scale(self) -> float:
        dimension, square = len(self.weight), float(self.weight.detach().square().sum())
        return ((dimension + 1) * square + dimension * self.noise**2) / square


class GaussianMixture(nn.Module):
    """0.5 |w - x|^2 with x from N(m, s^2 I) with probability p, else from N(-m, s^2 I).

    G = w - (2p - 1) m; tr(Sigma) = D s^2 + 4 p (1 - p) |m|^2.
    """

    def __init__(self, dimension: int, spread: float = 1.0, share: float = 0.3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((dimension,), 0.3))
        self.mean = torch.linspace(0, 1, dimension)
        self.spread, self.share = spread, share

    def forward(self, count: int, random: torch.Generator) -> Tensor:
        signs = (torch.rand(count, 1, generator=random) < self.share).float() * 2 - 1
        x = signs * self.mean + self.spread * torch.randn(count, len(self.mean), generator=random)
        return 0.5 * (self.weight - x).square().sum()

    @property
    def noise_scale(self) -> float:
        gradient = self.weight.detach() - (2 * self.share - 1) * self.mean
        trace = len(self.mean) * self.spread**2 + 4 * self.share * (1 - self.share) * self.mean.square().sum()
        return float(trace / gradient.square().sum())


def measure(model: nn.Module, rank: int, size: int, num_micro_batches: int, **options: object) -> list[float]:
    """(value, low, high) from steps of GLOBAL_BATCH examples at fixed weights."""
    noise = GradientNoiseScale(model, **options)
    random = torch.Generator().manual_seed(1000 * size + rank)
    count = GLOBAL_BATCH // size // num_micro_batches
    # DDP and FSDP2 take the mean over ranks, which this undoes; a plain sum needs nothing.
    for _ in range(STEPS):
        for _ in range(num_micro_batches):
            (model(count, random) * size / GLOBAL_BATCH).backward()
            noise.micro_batch(count)
        noise.step()
        model.zero_grad()
    found = noise.estimate()
    return [found.value, found.low, found.high]
