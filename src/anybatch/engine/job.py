"""The engine's input: a model, batches, an optimizer, a schedule, and what to do at the end."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from anybatch.engine.execution import Execution

Scores = dict[str, float]
Squares = Callable[[Sequence[Tensor]], Tensor | None]
CarryOver = Literal["keep", "reset_step", "new"]


class Batch(Protocol):
    """Some examples as tensors; `num_targets` has the divisor of each loss sum, by loss.

    `checksum` is a sum over the examples, modulo 2^64, of a hash that identifies the example: the same for any cut.
    """

    @property
    def inputs(self) -> Mapping[str, Tensor]: ...
    @property
    def num_targets(self) -> Mapping[str, int]: ...
    @property
    def num_examples(self) -> int: ...
    @property
    def checksum(self) -> int: ...


@dataclass(frozen=True)
class Promise:
    """`num_targets` and `checksum` of a batch that `read` reads; the batch may lack some of the targets."""

    num_targets: Mapping[str, int]
    checksum: int
    read: Callable[[], Batch]


class Examples(Protocol):
    """An endless sequence of examples, a pure function of the position: the same call gives the same batch."""

    def read(self, start: int, count: int) -> Batch: ...


class NoiseMeter(Protocol):
    """Separates signal from noise in a step's gradients; see `scaling.GradientNoiseScale`."""

    def measure(self) -> None: ...
    def micro_batch(self, num_examples: int) -> None: ...
    def idle(self) -> None: ...
    def step(self) -> None: ...
    def history(self) -> tuple[list[float], list[float]]: ...
    def last_step(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Phase:
    """A stretch of training at one global batch size; step t runs at `lr * schedule(t)`, t = 0 .. num_steps - 1.

    `hyperparameters`: the values of the optimizer's groups in this phase, for the keys that they have. A group with
        weight decay 0 keeps it. `carry_over`: what the optimizer keeps of the previous phase: "keep" everything,
        "reset_step" the moments with their step count at zero, "new" nothing. `flops_per_example`: the cost of a
        forward and a backward pass, if known. `group_size`: the number of examples that the model processes together,
        as BatchNorm does; a forward pass gets one such group, for any cut. None: examples do not affect each other.
    """

    examples: Examples
    global_batch_size: int
    num_steps: int
    lr: float
    warmup_steps: int
    schedule: Callable[[int], float]
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    carry_over: CarryOver = "keep"
    flops_per_example: float | None = None
    group_size: int | None = None

    @property
    def num_examples(self) -> int:
        return self.global_batch_size * self.num_steps


@dataclass(frozen=True)
class Job:
    """One run. `model(**inputs)` returns ({loss: sum over targets}, {loss: number right}), the latter in eval mode.

    The optimizer's groups hold the model's parameters; if those are sharded, their shards replace them. `inputs` are
    fingerprints, by name, of what the run depends on, such as its data: a resumed run must have the same. `score` and
    `export` get the finished model, whole and in eval mode, only on rank 0. `noise_meter` gets the model as it is
    trained. `squares` returns the sum of squares of each of several gradients, in float64, if it can; otherwise None,
    and torch is used.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    phases: Sequence[Phase]
    held_out: Sequence[Batch]
    seed: int
    inputs: Mapping[str, str]
    max_grad_norm: float | None
    execution: Execution
    score: Callable[[nn.Module], Scores]
    export: Callable[[nn.Module, Path], None]
    summary: Mapping[str, Any]
    noise_meter: Callable[[nn.Module], NoiseMeter] | None = None
    squares: Squares | None = None

    @property
    def num_steps(self) -> int:
        return sum(phase.num_steps for phase in self.phases)

    @property
    def num_examples(self) -> int:
        return sum(phase.num_examples for phase in self.phases)
