"""One optimizer step on one global batch, however it is cut into micro-batches."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anybatch.engine.job import Batch, Examples


@dataclass(frozen=True)
class StepResult:
    """`losses` are means over the targets of the global batch; `skipped` where a gradient was not finite."""

    losses: dict[str, float]
    grad_norm: float
    skipped: bool


def read_batch(examples: Examples, start: int, count: int, micro_batch_size: int) -> list[Batch]:
    """Examples start .. start + count - 1 as micro-batches; the last one takes what is left."""
    return [
        examples.read(position, min(micro_batch_size, start + count - position))
        for position in range(start, start + count, micro_batch_size)
    ]


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: Sequence[Batch], max_grad_norm: float | None
) -> StepResult:
    """Accumulates the gradient of `batch` and takes one step.

    Each loss is a sum over its targets divided by their count in the whole batch, never a mean of means, so that the
    gradient does not depend on the cut. The global gradient norm is taken in float64; where it is not finite, no
    parameter and no state changes. Gradients above `max_grad_norm` are scaled down to it.
    """
    num_targets = Counter[str]()
    for micro_batch in batch:
        num_targets.update(micro_batch.num_targets)
    totals: dict[str, Tensor] = {}
    for micro_batch in batch:
        sums, _ = model(**micro_batch.inputs)
        means = {name: loss / num_targets[name] for name, loss in sums.items()}
        torch.stack(list(means.values())).sum().backward()  # type: ignore[no-untyped-call]
        for name, mean in means.items():
            totals[name] = totals.get(name, 0.0) + mean.detach().double()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    grad_norm = float(global_norm(gradients))
    skipped = not torch.isfinite(torch.tensor(grad_norm))
    if not skipped:
        if max_grad_norm is not None and grad_norm > max_grad_norm:
            torch._foreach_mul_(gradients, max_grad_norm / grad_norm)
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return StepResult({name: float(total) for name, total in totals.items()}, grad_norm, skipped)


def global_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all tensors taken as one vector, accumulated in float64."""
    norms = [torch.linalg.vector_norm(tensor, dtype=torch.float64) for tensor in tensors]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros((), dtype=torch.float64)
