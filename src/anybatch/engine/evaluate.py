"""Loss and accuracy on held-out batches."""

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
    """`losses` and `accuracy` are means over targets, by name; `loss` is the sum of the losses."""

    loss: float
    losses: dict[str, float]
    accuracy: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(model: nn.Module, batches: Sequence[Batch]) -> Evaluation:
    """Evaluates `model`, where it is, in eval mode over all `batches` and puts it back as it was."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    names = list(batches[0].num_targets)
    sums = torch.zeros(3, len(names), dtype=torch.float64)
    was_training = model.training
    model.eval()
    for batch in batches:
        sums += _sums(model, batch, names, device)
    model.train(was_training)
    return _evaluation(names, sums)


def evaluate_together(parallel: Parallel, batches: Sequence[Batch]) -> Evaluation:
    """`evaluate` with the batches shared out over the ranks; all get the whole evaluation."""
    ranks = parallel.ranks
    names = list(batches[0].num_targets)
    sums = torch.zeros(3, len(names), dtype=torch.float64)
    was_training = parallel.module.training
    parallel.module.eval()
    for batch, counts in held_out_share(list(batches), ranks.rank, ranks.size):
        ranks.watch.doing("evaluating")
        with parallel.computing():
            found = _sums(parallel.module, batch, names, ranks.device)
        if counts:
            sums += found
    parallel.module.train(was_training)
    return _evaluation(names, ranks.sum(sums, "adding up the evaluation"))


@torch.no_grad()
def _sums(model: nn.Module, batch: Batch, names: list[str], device: torch.device) -> torch.Tensor:
    """Loss sums, numbers right and targets, by name: float64[3, names]."""
    losses, right = model(**on_device(batch.inputs, device))
    values = [losses[name].double() for name in names] + [right[name].double() for name in names]
    targets = torch.tensor([batch.num_targets[name] for name in names], dtype=torch.float64)
    return torch.cat([torch.stack(values).cpu(), targets]).view(3, len(names))


def _evaluation(names: list[str], sums: torch.Tensor) -> Evaluation:
    losses, right, targets = sums.tolist()
    means = {name: total / count for name, total, count in zip(names, losses, targets, strict=True)}
    return Evaluation(
        loss=sum(means.values()),
        losses=means,
        accuracy={name: count / total for name, count, total in zip(names, right, targets, strict=True)},
    )
