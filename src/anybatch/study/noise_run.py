"""A short stretch of a recipe's training, watched for its gradient noise; nothing of it is kept."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from anybatch.engine import Job
from anybatch.engine.job import Batch, Examples
from anybatch.engine.loading import on_device
from anybatch.errors import InputError
from anybatch.recipes import Recipe
from anybatch.recipes.execute import build
from anybatch.runs import Run
from anybatch.scaling import GradientNoiseScale

# Micro-batches a step: as many small gradients as make their mean steady, at little cost.
_MICRO_BATCHES = 4


@dataclass(frozen=True)
class Step:
    """One step that was taken: `loss` before it, per target."""

    number: int
    lr: float
    loss: float


@contextmanager
def built(recipe: Recipe) -> Iterator[Job]:
    """The job of `recipe`, whose data are prepared in a folder that is removed afterwards."""
    with TemporaryDirectory(prefix="anybatch-advise-") as scratch:
        yield build(recipe, Run(Path(scratch)))


def micro_batch_sizes(batch_size: int, largest: int) -> list[int]:
    """The cut of a step for measuring: four equal parts or more, each of at most `largest`.

    Raises:
        InputError: a batch of one example has no two parts.
    """
    if batch_size < 2:
        raise InputError(f"batch size {batch_size}: the noise scale needs at least two examples a step")
    parts = max(min(_MICRO_BATCHES, batch_size), math.ceil(batch_size / largest))
    edges = [batch_size * part // parts for part in range(parts + 1)]
    return [high - low for low, high in pairwise(edges)]


def train_watched(
    job: Job, num_steps: int, batch_size: int, largest_micro_batch: int, noise: GradientNoiseScale | None = None
) -> Iterator[Step]:
    """Takes `num_steps` of the job's first phase, at its own rates; yields each, until the loss is not finite."""
    phase = job.phases[0]
    sizes = micro_batch_sizes(batch_size, largest_micro_batch)
    job.model.train()
    for number in range(min(num_steps, phase.num_steps)):
        lr = phase.lr * phase.schedule(number)
        set_rate(job.optimizer, lr)
        torch.manual_seed((job.seed * 1_000_003 + number) % 2**63)
        loss = backward(job.model, phase.examples, number * batch_size, sizes, noise)
        if not math.isfinite(loss):
            return
        if noise is not None:
            noise.step()
        take_step(job)
        yield Step(number, lr, loss)


def backward(
    model: nn.Module, examples: Examples, start: int, sizes: list[int], noise: GradientNoiseScale | None = None
) -> float:
    """The gradient of the examples from `start` on in p.grad, cut into `sizes`; the sum of the mean losses."""
    batches: list[Batch] = []
    for size in sizes:
        batches.append(examples.read(start, size))
        start += size
    counts: dict[str, int] = {}
    for batch in batches:
        for name, count in batch.num_targets.items():
            counts[name] = counts.get(name, 0) + count
    total = 0.0
    for batch, size in zip(batches, sizes, strict=True):
        sums, _ = model(**on_device(batch.inputs, next(model.parameters()).device))
        loss = torch.stack([value / counts[name] for name, value in sums.items()]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        if noise is not None:
            noise.micro_batch(size)
        total += float(loss.detach())
    return total


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def take_step(job: Job) -> None:
    """Clips as the recipe does, and steps."""
    if job.max_grad_norm is not None:
        torch.nn.utils.clip_grad_norm_(job.model.parameters(), job.max_grad_norm)
    job.optimizer.step()
    job.optimizer.zero_grad(set_to_none=True)
