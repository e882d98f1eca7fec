"""What the engine is given: a model, batches, an optimizer, a schedule, and what to do at the end."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

Scores = dict[str, float]
Squares = Callable[[Sequence[Tensor]], Tensor | None]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
Choice = bool | Literal["auto"]
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


class Examples(Protocol):
    """An endless sequence of examples, a pure function of the position: the same call gives the same batch."""

    def read(self, start: int, count: int) -> Batch: ...


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
class Fsdp:
    """FSDP2's own choices: the dtype in which parameters are gathered and computed with, and whether they are freed
    between the forward and the backward pass."""

    param_dtype: Literal["fp32", "bf16"] = "fp32"
    reshard_after_forward: bool = True


@dataclass(frozen=True)
class Execution:
    """How a job is cut and watched; none of it changes the result beyond rounding.

    `parallel`: "auto" is "none" on one process and "ddp" beyond. `precision`: what the forward pass computes in.
    `gradient_dtype`: what gradients are summed over ranks in. `deterministic`: on a GPU the same bits for the same run,
    with slower kernels; a CPU gives them in any case. What else is "auto", `devices.decided` decides. `keep_best`:
    checkpoints kept for their held-out loss.
    `async_checkpoints`: the state is copied to the host's memory, and written while the run goes on.
    `max_skipped_steps`: steps in a row without a finite gradient after which the run gives up. `hang_timeout_s`: after
    so long without progress every rank shows where it stands, and the run ends. `noise_every`: every so many steps the
    gradient noise is measured; 0: never. `noise_detail`: it is recorded of each layer, and preconditioned, too.
    `evaluate_at`: steps after which the run is evaluated, beside `num_evals` evenly spread ones. `stop_after_steps`:
    the run saves itself and stops after this step of all phases; None: it runs to its end.
    """

    micro_batch_size: int | Literal["auto"]
    num_evals: int
    num_trust_ratios: int
    checkpoint_every_steps: int
    evaluate_at: Sequence[int] = ()
    keep_last: int = 2
    keep_best: int = 0
    async_checkpoints: bool = False
    parallel: Literal["auto", "none", "ddp", "fsdp"] = "auto"
    precision: Precision | Literal["auto"] = "auto"
    gradient_dtype: Literal["fp32", "bf16"] = "fp32"
    activation_checkpointing: bool = False
    compile: Choice = "auto"
    deterministic: bool = False
    channels_last: Choice = "auto"
    cudnn_search: Choice = "auto"
    cudnn_attention: bool = False
    fsdp: Fsdp = Fsdp()
    prefetch: bool = True
    max_skipped_steps: int = 20
    hang_timeout_s: float = 600.0
    noise_every: int = 100
    noise_detail: bool = False
    stop_after_steps: int | None = None


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
