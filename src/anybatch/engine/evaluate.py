"""Loss and accuracy on held-out batches."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from anybatch.engine.job import Batch
from anybatch.engine.loading import held_out_share, on_device
from anybatch.engine.parallel import Parallel


@dataclass(frozen=True)
class Evaluation:
    """`losses` and `accuracy` are means over targets, by name; `loss` is the sum of the losses.

    A metric without a loss of its own (top-5, say) appears only in `accuracy`.
    """

    loss: float
    losses: dict[str, float]
    accuracy: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(model: nn.Module, batches: Sequence[Batch]) -> Evaluation:
    """Evaluates `model`, on its device, in eval mode over all `batches`, and restores its mode."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    names = list(batches[0].num_targets)
    sums = torch.zeros(4, len(names), dtype=torch.float64)
    was_training = model.training
    model.eval()
    for batch in batches:
        sums += _sums(model, batch, names, device)
    model.train(was_training)
    return _evaluation(names, sums)


def evaluate_together(parallel: Parallel, batches: Sequence[Batch]) -> Evaluation:
    """Evaluates with the batches shared over the ranks; all ranks get the whole evaluation."""
    ranks = parallel.ranks
    names = list(batches[0].num_targets)
    sums = torch.zeros(4, len(names), dtype=torch.float64)
    was_training = parallel.module.training
    parallel.module.eval()
    for batch, counts in held_out_share(list(batches), ranks.rank, ranks.size):
        ranks.watch.doing("evaluating")
        with parallel.computing(), parallel.eagerly():
            found = _sums(parallel.module, batch, names, ranks.device)
        if counts:
            sums += found
    parallel.module.train(was_training)
    return _evaluation(names, ranks.sum(sums, "adding up the evaluation"))


@torch.no_grad()
def _sums(model: nn.Module, batch: Batch, names: list[str], device: torch.device) -> torch.Tensor:
    """Returns loss sums, numbers right, targets, and whether there is a loss, by name: float64[4, names]."""
    losses, right = model(**on_device(batch.inputs, device))
    none = torch.zeros((), dtype=torch.float64, device=device)
    values = [losses.get(name, none).double() for name in names] + [right[name].double() for name in names]
    counts = [*(batch.num_targets[name] for name in names), *(int(name in losses) for name in names)]
    return torch.cat([torch.stack(values).cpu(), torch.tensor(counts, dtype=torch.float64)]).view(4, len(names))


def _evaluation(names: list[str], sums: torch.Tensor) -> Evaluation:
    losses, right, targets, has_loss = sums.tolist()
    counts = [count or math.nan for count in targets]
    means = {name: loss / count for name, loss, count, has in zip(names, losses, counts, has_loss, strict=True) if has}
    return Evaluation(
        loss=sum(means.values()),
        losses=means,
        accuracy={name: count / total for name, count, total in zip(names, right, counts, strict=True)},
    )
