"""Loss and accuracy on held-out batches."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from anybatch.engine.job import Batch


@dataclass(frozen=True)
class Evaluation:
    """`losses` and `accuracy` are means over targets, by name; `loss` is the sum of the losses."""

    loss: float
    losses: dict[str, float]
    accuracy: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
    """Evaluates `model` in eval mode over all `batches` and puts it back as it was."""
    was_training = model.training
    model.eval()
    losses, right, num_targets = Counter[str](), Counter[str](), Counter[str]()
    for batch in batches:
        loss_sums, right_sums = model(**batch.inputs)
        losses.update({name: float(value) for name, value in loss_sums.items()})
        right.update({name: int(value) for name, value in right_sums.items()})
        num_targets.update(batch.num_targets)
    model.train(was_training)
    means = {name: total / num_targets[name] for name, total in losses.items()}
    return Evaluation(
        loss=sum(means.values()),
        losses=means,
        accuracy={name: count / num_targets[name] for name, count in right.items()},
    )
