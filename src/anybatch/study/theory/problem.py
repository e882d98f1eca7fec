"""Non-convex functions for which the theorems' constants are known exactly, and runs of optimizers on them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Every coordinate starts beyond the turning point of the cosine, where the function is concave.
START_ANGLE = 2.0


@dataclass(frozen=True)
class Problem:
    """f(x) = sum over layers i and coordinates j of l_ij w_ij^2 (1 - cos((x_ij - c_ij) / w_ij)).

    Layer i is exactly L_i-smooth, f* = 0, and f is not convex: each coordinate starts at an angle of 2 radians, where
    the second derivative is negative. Within a layer the curvatures l_ij fall from L_i to L_i / 2^octaves in equal
    ratios. The gradient of an example has independent Gaussian noise with E|noise_i|^2 = sigma_i^2.

    Args:
        smoothness: L_i of every layer.
        noise: sigma_i of every layer.
        energy: f(x_1) - f* of every layer, spread evenly over its coordinates; 0 starts the layer at its optimum.
        width: coordinates of a layer.
        octaves: how far the curvatures within a layer spread.
    """

    smoothness: tuple[float, ...]
    noise: tuple[float, ...]
    energy: tuple[float, ...]
    width: int = 16
    octaves: float = 0.0

    @property
    def num_layers(self) -> int:
        return len(self.smoothness)

    @property
    def largest(self) -> float:
        """L_inf."""
        return max(self.smoothness)

    @property
    def average(self) -> float:
        """L_avg."""
        return sum(self.smoothness) / self.num_layers

    @property
    def gap(self) -> float:
        """f(x_1) - f*."""
        return sum(self.energy)

    def curvatures(self) -> Tensor:
        """Returns l_ij, shape (layers, width)."""
        fall = torch.logspace(0, -self.octaves, self.width, base=2.0, dtype=torch.float64)
        return torch.tensor(self.smoothness, dtype=torch.float64)[:, None] * fall

    def scales(self) -> Tensor:
        """Returns w_ij, with which a coordinate at the starting angle holds its share of the energy."""
        energy = torch.tensor(self.energy, dtype=torch.float64)
        # A layer at its optimum has no energy to set its scale: it gets the mean layer's scale.
        energy = torch.where(energy > 0, energy, self.gap / self.num_layers)
        return (energy[:, None] / self.width / (self.curvatures() * (1 - math.cos(START_ANGLE)))).sqrt()


MakeOptimizer = Callable[[list[dict[str, object]]], torch.optim.Optimizer]


def run(
    problems: Sequence[Problem],
    rates: Sequence[float],
    make: MakeOptimizer,
    num_steps: int,
    num_repetitions: int,
    seed: int,
    batch_size: int | None = None,
) -> dict[str, Tensor]:
    """Takes T steps of an optimizer on each problem at the problem's learning rate, several times side by side.

    Returns:
        Means over the iterates x_1 .. x_T, as for a uniformly drawn iterate; shape (problems, repetitions):

        squared: |grad f|^2                       plain: |grad f|
        layers: sum_i |grad_i f| / sqrt(h)        coordinates: |grad f|_1 / sqrt(d)

    Every repetition of a problem is a separate set of layers: one tensor whose `blocks` are these layers. The mean of
    `batch_size` (by default T) examples' gradients is drawn as one Gaussian, which has the same distribution.
    """
    first = problems[0]
    shape = (num_repetitions, first.num_layers, first.width)
    random = torch.Generator().manual_seed(seed)
    curvature = torch.stack([problem.curvatures() for problem in problems])[:, None]
    scale = torch.stack([problem.scales() for problem in problems])[:, None]
    energy = torch.tensor([problem.energy for problem in problems], dtype=torch.float64)
    sigma = torch.tensor([problem.noise for problem in problems], dtype=torch.float64)
    deviation = (sigma / math.sqrt(first.width * (batch_size or num_steps)))[:, None, :, None]
    optimum = torch.randn(shape, generator=random, dtype=torch.float64)
    optimum /= optimum.norm(dim=-1, keepdim=True)
    signs = torch.randint(0, 2, shape, generator=random) * 2 - 1
    x = optimum + signs * START_ANGLE * scale * (energy > 0)[:, None, :, None]
    gradient = torch.empty_like(x)
    groups: list[dict[str, object]] = []
    for k, rate in enumerate(rates):
        parameter = torch.nn.Parameter(x[k].view(-1, first.width))
        parameter.grad = gradient[k].view(-1, first.width)
        groups.append({"params": [parameter], "lr": rate, "blocks": shape[0] * shape[1]})
    optimizer = make(groups)
    sums = [torch.zeros(len(problems), num_repetitions, dtype=torch.float64) for _ in range(4)]
    amplitude = curvature * scale
    for _ in range(num_steps):
        torch.sub(x, optimum, out=gradient).div_(scale).sin_().mul_(amplitude)
        squares = gradient.square().sum(-1)
        total = squares.sum(-1)
        sums[0] += total
        sums[1] += squares.sqrt().sum(-1)
        sums[2] += gradient.abs().sum((-1, -2))
        sums[3] += total.sqrt()
        noise = torch.randn(shape, generator=random, dtype=torch.float64)
        gradient.addcmul_(noise.expand_as(x), deviation.expand_as(x))
        optimizer.step()
    h, d = first.num_layers, first.num_layers * first.width
    squared, layers, coordinates, plain = (total / num_steps for total in sums)
    norms = {"layers": layers / math.sqrt(h), "coordinates": coordinates / math.sqrt(d)}
    return {"squared": squared, "plain": plain, **norms}
