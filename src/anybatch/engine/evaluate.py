"""Loss and accuracy on held-out batches."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from anybatch.engine.job import Batch
from anybatch.engine.loading import on_device
from anybatch.engine.parallel import Parallel
from anybatch.engine.watch import Watch


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
    return _evaluation(names, _sums(model, batches, names, device))


def evaluate_together(parallel: Parallel, batches: Sequence[Batch]) -> Evaluation:
    """Evaluates with the batches shared over the ranks; all ranks get the whole evaluation."""
    ranks = parallel.ranks
    names = list(batches[0].num_targets)
    mine = batches[ranks.rank :: ranks.size]
    with parallel.computing(), parallel.eagerly():
        sums = _sums(parallel.module, mine, names, ranks.device, ranks.watch)
        if len(mine) < len(batches[:: ranks.size]):
            # Shards are gathered in forward passes, of which every rank makes as many; this one is not counted.
            _sums(parallel.module, batches[:1], names, ranks.device)
    return _evaluation(names, ranks.sum(sums, "adding up the evaluation"))


@torch.no_grad()
def _sums(
    model: nn.Module, batches: Sequence[Batch], names: list[str], device: torch.device, watch: Watch | None = None
) -> torch.Tensor:
    """Returns loss sums, numbers right, targets, and how many batches have a loss, by name: float64[4, names]."""
    sums = torch.zeros(4, len(names), dtype=torch.float64)
    none = torch.zeros((), dtype=torch.float64, device=device)
    was_training = model.training
    model.eval()
    for batch in batches:
        if watch is not None:
            watch.doing("evaluating")
        losses, right = model(**on_device(batch.inputs, device))
        values = [losses.get(name, none).double() for name in names] + [right[name].double() for name in names]
        counts = [*(batch.num_targets[name] for name in names), *(int(name in losses) for name in names)]
        found = torch.cat([torch.stack(values).cpu(), torch.tensor(counts, dtype=torch.float64)])
        sums += found.view(4, len(names))
    model.train(was_training)
    return sums


def _evaluation(names: list[str], sums: torch.Tensor) -> Evaluation:
    losses, right, targets, has_loss = sums.tolist()
    counts = [count or math.nan for count in targets]
    means = {name: loss / count for name, loss, count, has in zip(names, losses, counts, has_loss, strict=True) if has}
    return Evaluation(
        loss=sum(means.values()),
        losses=means,
        accuracy={name: count / total for name, count, total in zip(names, right, counts, strict=True)},
    )
