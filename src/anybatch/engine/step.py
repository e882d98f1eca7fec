"""One optimizer step on one global batch, however it is cut into ranks and micro-batches."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anybatch.engine.job import NoiseMeter, Squares
from anybatch.engine.loading import Share, on_device
from anybatch.engine.parallel import Parallel


@dataclass(frozen=True)
class StepResult:
    """The result for the global batch, the same on all ranks.

    `losses` are means over its targets; `skipped`: a loss or a gradient was not finite; `flags` are sums over ranks.
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

    Each loss is a sum over its targets divided by their count in the whole batch, never a mean of means, so the
    gradient does not depend on the cut. The global gradient norm is taken in float64. If it or a loss is not finite,
    no parameter and no state changes, on any rank. Gradients above `max_grad_norm` are scaled down to it.

    Args:
        flags: what this rank tells all ranks after the step; called when its gradient is complete.
        meter: sees the gradient of every micro-batch, and that of the whole step before it is clipped.
    """
    ranks, device = parallel.ranks, parallel.ranks.device
    names = list(share.num_targets)
    # int64 sums wrap around, as a checksum may.
    counts = _there(torch.tensor([*share.num_targets.values(), _signed(share.checksum)]), device)
    ranks.sum(counts, "counting targets")
    # If reading a number would wait for the device, the device divides by it.
    num_targets = counts.clamp(min=1).tolist() if device.type == "cpu" else list(counts.clamp(min=1).unbind())
    totals = torch.zeros(len(names), dtype=torch.float64, device=device)
    last, lacking = len(share.micro_batches) - 1, 0
    statistics, scale = parallel.statistics, parallel.loss_scale
    statistics.begin()
    if meter is not None:
        meter.measure()
    for number, micro_batch in enumerate(share.micro_batches):
        ranks.watch.doing(f"computing micro-batch {number + 1} of {last + 1}")
        lacking += micro_batch.lacking
        with parallel.computing(), statistics.watching(micro_batch.weight > 0):
            sums, _ = parallel.module(**on_device(micro_batch.inputs, device))
        means = torch.stack([
            sums[name] * micro_batch.weight / count for name, count in zip(names, num_targets, strict=False)
        ])  # fmt: skip
        # For shards, a meter sees sums over the ranks: of the first micro-batch, and of the whole step.
        apart = meter is not None and number == 0 and parallel.sums_in_backward
        loss = means.sum()
        loss = loss if scale is None else loss * scale.value
        parallel.backward(loss, last=number == last or apart, watched=meter is not None)
        if meter is not None and micro_batch.weight > 0:
            meter.micro_batch(micro_batch.num_examples)
        elif meter is not None:
            meter.idle()
        totals += means.detach()
    parallel.after_backward()
    gradients = parallel.gradients()
    if scale is not None and gradients:
        torch._foreach_mul_(gradients, 1.0 / scale.value)
    if meter is not None:
        with ranks.waiting("measuring the gradient noise"):
            meter.step()
    square = sum_of_squares(gradients, parallel.squares).to(device)
    own_flags = torch.tensor([lacking, *flags()], dtype=torch.float64)
    agreed = torch.cat([totals, parallel.share(square).view(1), _there(own_flags, device)])
    ranks.sum(agreed, "agreeing on the step")
    # The only place of a step at which the host waits for the device.
    with ranks.waiting("agreeing on the step"):
        here = torch.cat([agreed.view(torch.int64), counts[[0, -1]]]).cpu()
    losses, (norm_square, lacked, *agreed_flags) = _split(here[:-2].view(torch.float64).tolist(), len(names))
    # The loss was divided by the promised targets; this corrects it to the actual targets.
    factor = int(here[-2]) / max(int(here[-2]) - lacked, 1)
    losses, grad_norm = [factor * loss for loss in losses], factor * math.sqrt(norm_square)
    clipped = max_grad_norm is not None and grad_norm > max_grad_norm
    skipped = not all(map(math.isfinite, [grad_norm, *losses]))
    if scale is not None:
        scale.update(skipped)
    if skipped:
        statistics.forget()
    else:
        statistics.settle(ranks)
        if clipped:
            assert max_grad_norm is not None
            factor *= max_grad_norm / grad_norm
        _step(optimizer, gradients, factor)
        parallel.refresh()
    parallel.forget_gradients()
    return StepResult(
        losses=dict(zip(names, losses, strict=True)),
        grad_norm=grad_norm,
        clipped=clipped and not skipped,
        skipped=skipped,
        checksum=int(here[-1]) % 2**64,
        flags=[int(flag) for flag in agreed_flags],
    )


def _step(optimizer: torch.optim.Optimizer, gradients: list[Tensor], factor: float) -> None:
    """Takes a step with the gradients times `factor`; an optimizer that can multiplies while it reads them."""
    if hasattr(optimizer, "gradient_scale"):
        optimizer.gradient_scale = factor
    elif factor != 1:
        torch._foreach_mul_(gradients, factor)
    optimizer.step()


def sum_of_squares(tensors: Sequence[Tensor], squares: Squares | None = None) -> Tensor:
    """Returns the squared Euclidean norm of all tensors as one vector, accumulated in float64.

    Args:
        squares: returns the sum of squares of each tensor on a CPU if it can, faster than torch.
    """
    found = squares(tensors) if squares is not None and tensors else None
    if found is not None:
        return found.sum()
    tensors = [tensor for tensor in tensors if tensor.numel()]
    if not tensors:
        return torch.zeros((), dtype=torch.float64)
    if tensors[0].is_cuda:
        return torch.stack(torch._foreach_norm(tensors, 2, dtype=torch.float64)).square().sum()
    norms = [torch.linalg.vector_norm(tensor, dtype=torch.float64) for tensor in tensors]
    return torch.stack(norms).square().sum()


def _there(values: Tensor, device: torch.device) -> Tensor:
    """Returns `values` on the device; a GPU copies them from pinned memory, so nothing waits."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values


def _split(values: list[float], count: int) -> tuple[list[float], list[float]]:
    return values[:count], values[count:]


def _signed(number: int) -> int:
    """Returns the int64 with the bits of a uint64."""
    return number - 2**64 if number >= 2**63 else number
