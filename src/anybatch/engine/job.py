"""What the engine is given: a model, batches, an optimizer, a schedule, and what to do at the end."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Scores = dict[str, float]


class Batch(Protocol):
    """Some examples as tensors; `num_targets` counts, by loss, what its sum is to be divided by."""

    @property
    def inputs(self) -> Mapping[str, Tensor]: ...
    @property
    def num_targets(self) -> Mapping[str, int]: ...
    @property
    def num_examples(self) -> int: ...


class Examples(Protocol):
    """An endless sequence of examples, a pure function of the position: the same call gives the same batch."""

    def read(self, start: int, count: int) -> Batch: ...


@dataclass(frozen=True)
class Phase:
    """A stretch of training at one global batch size; step t runs at `lr * schedule(t)`, t = 0 .. num_steps - 1."""

    examples: Examples
    global_batch_size: int
    num_steps: int
    lr: float
    warmup_steps: int
    schedule: Callable[[int], float]

    @property
    def num_examples(self) -> int:
        return self.global_batch_size * self.num_steps


@dataclass(frozen=True)
class Execution:
    """How a job is cut and watched; none of it changes the result beyond rounding."""

    micro_batch_size: int
    num_evals: int
    num_trust_ratios: int
    checkpoint_every_steps: int


@dataclass(frozen=True)
class Job:
    """One run. `model(**inputs)` returns ({loss: sum over targets}, {loss: number right}), the latter in eval mode.

    `inputs` is a fingerprint of the data and of the model that the run starts from: a resumed run must share it.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    phases: Sequence[Phase]
    held_out: Sequence[Batch]
    seed: int
    inputs: str
    max_grad_norm: float | None
    execution: Execution
    score: Callable[[], Scores]
    export: Callable[[Path], None]
    summary: Mapping[str, Any]

    @property
    def num_steps(self) -> int:
        return sum(phase.num_steps for phase in self.phases)

    @property
    def num_examples(self) -> int:
        return sum(phase.num_examples for phase in self.phases)
