"""What the engine is given: a model, batches, an optimizer, a schedule, and what to do at the end."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from anybatch.engine.execution import Execution

Scores = dict[str, float]
Squares = Callable[[Sequence[Tensor]], Tensor | None]
CarryOver = Literal["keep", "reset_step", "new"]


class Batch(Protocol):
    """Some examples as tensors; `num_targets` counts, by loss, what its sum is to be divided by.

    `checksum` is a sum over the examples, modulo 2^64, of a hash of which example it is: the same for any cut.
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
    """`num_targets` and `checksum` of a batch that is not read yet."""

    num_targets: Mapping[str, int]
    checksum: int


class Examples(Protocol):
    """An endless sequence of examples, a pure function of the position: the same call gives the same batch."""

    def read(self, start: int, count: int) -> Batch: ...


@runtime_checkable
class Promising(Examples, Protocol):
    """Examples of which some things may be known before they are read."""

    def promised(self, start: int, count: int) -> Promise | None:
        """What `read` will give: targets of one loss, of which damaged examples may turn out to have none."""
        ...


class NoiseMeter(Protocol):
    """Tells signal from noise in a step's gradients; see `scaling.GradientNoiseScale`."""

    def measure(self) -> None: ...
    def micro_batch(self, num_examples: int) -> None: ...
    def idle(self) -> None: ...
    def step(self) -> None: ...
    def history(self) -> tuple[list[float], list[float]]: ...
    def last_step(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Phase:
    """A stretch of training at one global batch size; step t runs at `lr * schedule(t)`, t = 0 .. num_steps - 1.

    `hyperparameters`: values that the optimizer's groups take for the phase, of the keys that they have. A group whose
    weight decay is 0 keeps it.
    `carry_over` is what the optimizer brings from the phase before: "keep" everything, "reset_step" keeps the moments
    and counts their steps from zero again, "new" keeps nothing. `flops_per_example`, where known, is what the forward
    and the backward pass of the model cost. `group_size`: how many examples the model looks at together, as BatchNorm
    does: a forward pass gets one such group, whatever the cut. None: examples do not see each other.
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

    The optimizer's groups hold parameters of the model; where those are sharded, their shards take their places.
    `inputs` are fingerprints, by name, of what the run depends on, such as its data: a resumed run must share them.
    `score` and `export` are given the finished model, whole and in eval mode, on rank 0 alone. `noise_meter` is given
    the model as it is trained. `squares` gives the sum of squares of each of several gradients, float64, where it can:
    None elsewhere, where torch is asked.
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
