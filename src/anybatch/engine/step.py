"""One optimizer step on one global batch, however it is cut into ranks and micro-batches."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anybatch.engine.job import NoiseMeter
from anybatch.engine.loading import Share, on_device
from anybatch.engine.parallel import Parallel


@dataclass(frozen=True)
class StepResult:
    """Of the global batch, the same on all ranks.

    `losses` are means over its targets; `skipped` where one of them or a gradient was not finite; `flags` are sums over
    ranks.
    """

    losses: dict[str, float]
    grad_norm: float
    clipped: bool
    skipped: bool
    checksum: int
    flags: list[int]


def train_step(
    parallel: Parallel,
    optimizer: torch.optim.Optimizer,
    share: Share,
    max_grad_norm: float | None,
    flags: Callable[[], Sequence[int]] = tuple,
    meter: NoiseMeter | None = None,
) -> StepResult:
    """Accumulates the gradient of the ranks' shares and takes one step.

    Each loss is a sum over its targets divided by their count in the whole batch, never a mean of means, so that the
    gradient does not depend on the cut. The global gradient norm is taken in float64; where it or a loss is not finite,
    no parameter and no state changes, on any rank. Gradients above `max_grad_norm` are scaled down to it.

    Args:
        flags: what this rank wants all to know after the step, asked for once its gradient is done.
        meter: sees the gradient of every micro-batch, and that of the whole step before it is clipped.
    """
    ranks = parallel.ranks
    names = list(share.num_targets)
    # int64 sums wrap around, as a checksum may.
    counts = torch.tensor([*share.num_targets.values(), _signed(share.checksum)])
    *num_targets, checksum = ranks.sum(counts, "counting targets").tolist()
    totals = [torch.zeros((), dtype=torch.float64, device=ranks.device) for _ in names]
    last = len(share.micro_batches) - 1
    statistics = parallel.statistics
    statistics.begin()
    if meter is not None:
        meter.measure()
    for number, micro_batch in enumerate(share.micro_batches):
        ranks.watch.doing(f"computing micro-batch {number + 1} of {last + 1}")
        with parallel.computing(), statistics.watching(micro_batch.weight > 0):
            sums, _ = parallel.module(**on_device(micro_batch.inputs, ranks.device))
        means = [
            sums[name] * micro_batch.weight / max(count, 1) for name, count in zip(names, num_targets, strict=True)
        ]
        # Of shards a meter sees what is summed over the ranks: the first micro-batch by itself, and the whole.
        apart = meter is not None and number == 0 and parallel.sums_in_backward
        parallel.before_backward(number == last or apart)
        torch.stack(means).sum().backward()  # type: ignore[no-untyped-call]
        if meter is not None and micro_batch.weight > 0:
            meter.micro_batch(micro_batch.num_examples)
        for total, mean in zip(totals, means, strict=True):
            total += mean.detach()
    parallel.after_backward()
    if meter is not None:
        with ranks.waiting("measuring the gradient noise"):
            meter.step()
    gradients = parallel.gradients()
    *losses, square = torch.stack([*totals, sum_of_squares(gradients).to(ranks.device)]).tolist()
    mine = torch.tensor([*losses, parallel.share(square), *flags()], dtype=torch.float64)
    agreed = ranks.sum(mine, "agreeing on the step").tolist()
    losses, square, agreed_flags = agreed[: len(names)], agreed[len(names)], agreed[len(names) + 1 :]
    grad_norm = math.sqrt(square)
    clipped = max_grad_norm is not None and grad_norm > max_grad_norm
    skipped = not all(map(math.isfinite, [grad_norm, *losses]))
    if skipped:
        statistics.forget()
    else:
        statistics.settle(ranks)
        if clipped:
            assert max_grad_norm is not None
            torch._foreach_mul_(gradients, max_grad_norm / grad_norm)
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return StepResult(
        losses=dict(zip(names, losses, strict=True)),
        grad_norm=grad_norm,
        clipped=clipped and not skipped,
        skipped=skipped,
        checksum=checksum % 2**64,
        flags=[int(flag) for flag in agreed_flags],
    )


def sum_of_squares(tensors: Sequence[Tensor]) -> Tensor:
    """The squared Euclidean norm of all tensors taken as one vector, accumulated in float64."""
    if not tensors:
        return torch.zeros((), dtype=torch.float64)
    norms = [torch.linalg.vector_norm(tensor, dtype=torch.float64) for tensor in tensors]
    return torch.stack(norms).square().sum()


def _signed(number: int) -> int:
    """The int64 with the bits of a uint64."""
    return number - 2**64 if number >= 2**63 else number
