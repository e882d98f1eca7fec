"""What a run asks of any hardware: parameters, FLOPs, activations and messages, phase by phase."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from anybatch.errors import InputError
from anybatch.models import BertSettings, pretraining_flops
from anybatch.planner.accelerators import Family, Precision
from anybatch.planner.examples import Examples

Optimizer = Literal["lamb", "lars", "adamw", "adam", "adagrad", "momentum"]

# Bytes a parameter a step in fp32, each tensor counted as often as it must be read or written: LAMB reads g, p, m, v
# and writes m, v, u, then reads p, u and writes p.
OPTIMIZER_BYTES: Mapping[str, int] = {"lamb": 40, "lars": 28, "adamw": 28, "adam": 28, "adagrad": 20, "momentum": 20}
# Bytes a parameter of what the optimizer keeps.
STATE_BYTES: Mapping[str, int] = {"lamb": 8, "lars": 4, "adamw": 8, "adam": 8, "adagrad": 4, "momentum": 4}


@dataclass(frozen=True)
class WorkPhase:
    """A stretch of a run. All figures are for one example.

    Args:
        title: what a user calls it, such as "sequence 128".
        share: of the run's examples.
        batch_ratio: its global batch over the first phase's.
        flops: forward and backward pass.
        activation_bytes: what the forward pass keeps for the backward pass.
        checkpointed_bytes: the same where only the inputs of the layers are kept, and one layer is recomputed.
        input_bytes: what is read and sent to the device.
    """

    title: str
    share: float
    batch_ratio: float
    flops: float
    activation_bytes: float
    checkpointed_bytes: float
    input_bytes: float


@dataclass(frozen=True)
class Evaluation:
    """`num_examples` are evaluated every `every_examples + every_batches * batch` examples."""

    num_examples: int
    every_examples: float
    every_batches: float = 0.0


@dataclass(frozen=True)
class Workload:
    """A run, apart from batch and hardware.

    Args:
        parameters, num_tensors: of the model; a tensor is one layer to the optimizer.
        num_kernels: of one forward and backward pass, however few examples.
        examples: what the run needs, by global batch.
        epoch_examples: of the data, where epochs mean something.
        gradient_bytes: a parameter, as sent between devices.
        start_s: from the launch to the first step.
        num_checkpoints: over the run.
        largest_layer: parameters of the largest unit that FSDP gathers.
        recipe: the name of the recipe that it describes, for the command line; None where there is none.
        batch_size: the batch of the run as it is published or tuned.
    """

    name: str
    family: Family
    precision: Precision
    parameters: int
    largest_layer: int
    num_tensors: int
    num_kernels: int
    phases: tuple[WorkPhase, ...]
    optimizer: Optimizer
    examples: Examples
    batch_size: int
    gradient_bytes: int = 4
    epoch_examples: int | None = None
    evaluation: Evaluation | None = None
    start_s: float = 60.0
    num_checkpoints: int = 10
    recipe: str | None = None

    def with_optimizer(self, name: str) -> "Workload":
        """The same run with another optimizer: its bytes change, its examples do not.

        Raises:
            InputError: the planner does not know it.
        """
        if name not in OPTIMIZER_BYTES:
            raise InputError(f"optimizer {name!r}: must be one of {', '.join(OPTIMIZER_BYTES)}")
        return replace(self, optimizer=name)  # type: ignore[arg-type]

    def batch_of(self, phase: WorkPhase, batch_size: int) -> int:
        """The phase's batch where the first phase's is `batch_size`."""
        return max(1, round(batch_size * phase.batch_ratio))


def bert_parameters(vocabulary_size: int, hidden_size: int, num_layers: int, max_positions: int) -> int:
    """Of BERT for pretraining: embeddings, layers with an inner size of 4 H, pooler, both heads; tied words once."""
    h = hidden_size
    embeddings = (vocabulary_size + max_positions + 2) * h + 2 * h
    heads = (h * h + h) + (h * h + 3 * h + vocabulary_size) + (2 * h + 2)
    return embeddings + num_layers * (12 * h * h + 13 * h) + heads


def bert_phase(
    title: str,
    *,
    vocabulary_size: int,
    hidden_size: int,
    num_layers: int,
    sequence_length: int,
    num_masked: float,
    value_bytes: int = 2,
    share: float = 1.0,
    batch_ratio: float = 1.0,
) -> WorkPhase:
    """A phase of BERT pretraining on sequences of S tokens, M of which are masked, with L layers of H.

    FLOPs are those of `models.pretraining_flops`. Activations are 34 S H bytes a layer at 16 bits, as attention is
    recomputed and never stored (Korthikanti et al. 2022, arXiv 2205.05198, equation 2 without its S^2 term), and the
    logits with their gradient.
    """
    s, h = sequence_length, hidden_size
    # Neither heads nor the table of positions cost matrix products.
    shape = BertSettings(vocabulary_size, hidden_size, num_layers, num_heads=1, max_positions=s)
    scale = value_bytes / 2
    logits = num_masked * vocabulary_size * (value_bytes + 8)
    return WorkPhase(
        title=title,
        share=share,
        batch_ratio=batch_ratio,
        flops=pretraining_flops(shape, s, num_masked / s),
        activation_bytes=num_layers * 34 * s * h * scale + logits,
        checkpointed_bytes=(num_layers * 2 + 34) * s * h * scale + logits,
        input_bytes=s * 24,
    )
