"""A kind of run: one class, listed in tasks.py, which opens a recipe's data and makes the parts of its job."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from anybatch.data.batch import Source
from anybatch.engine import Batch
from anybatch.engine.devices import local_device
from anybatch.engine.job import Scores
from anybatch.environment import half_of_memory
from anybatch.errors import InputError
from anybatch.recipes.recipe import Recipe
from anybatch.runs import Run

R = TypeVar("R", bound=Recipe)
Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Outline:
    """The model and inputs that a recipe would run, for counting without running."""

    model: nn.Module
    """On torch's meta device: shapes without content."""
    inputs: Callable[[Any, int], dict[str, Tensor]]
    """The model's arguments for a phase's settings and a number of examples, without padding; on the same device."""
    num_held_out: int
    """The number of examples in an evaluation."""
    epoch_examples: int | None = None
    """The number of examples in the data; None for text, which must be read to count them."""
    supposed: tuple[str, ...] = ()
    """In words, the assumptions about what the recipe leaves open."""


class Task(ABC, Generic[R]):
    """A kind of run, with the data of a recipe opened; InputError if data, model and batch do not fit each other."""

    accuracies: ClassVar[Mapping[str, str]]
    """What an evaluation counts, by the metric's name, with its common name."""
    group_size: int | None = None
    """The number of examples that the model processes together."""

    def __init__(self, recipe: R, run: Run) -> None:
        self.recipe, self.run = recipe, run

    @staticmethod
    @abstractmethod
    def outline(recipe: Any) -> Outline:
        """Returns the outline; called in a block of torch's meta device."""

    @classmethod
    @abstractmethod
    def describe(cls, recipe: Any) -> tuple[str, str]:
        """Describes the model and the data, in words."""

    @abstractmethod
    def model(self) -> nn.Module:
        """Makes the model with the run's first weights."""

    @abstractmethod
    def source(self, phase: Any) -> Source:
        """Returns the examples of a phase, for training."""

    def flops(self, phase: Any) -> float | None:
        """Returns the FLOPs of one example in a phase, if they are known."""
        return None

    def left_out(self) -> str:
        """Returns what follows an error of the phases: the examples that were left out."""
        return ""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer of a model for text, exported with the model."""
        return None

    @property
    @abstractmethod
    def held_out(self) -> Sequence[Batch]:
        """The batches of an evaluation, the same for any seed."""

    @abstractmethod
    def inputs(self) -> dict[str, str]:
        """Returns the fingerprints besides the recipe's."""

    def summary(self) -> dict[str, Any]:
        """Returns what result.json holds besides the settings."""
        return {}

    @abstractmethod
    def scores(self, model: Any, *, at_end: bool) -> Scores:
        """Scores `model` on the held-out data; at the run's end also writes what shows its work."""

    @abstractmethod
    def load(self, folder: Path) -> nn.Module:
        """Loads a run's saved model."""

    def evaluate(self, folder: Path, squad_file: Path | None, null_threshold: float | None) -> Scores:
        """Scores the run's model in `folder` on the held-out data; only questions take the other arguments."""
        if null_threshold is not None:
            raise InputError(f"{self.run.path}: is no run on questions, and has no null threshold")
        if squad_file is not None:
            raise InputError(
                f"{self.run.path}: its task is {self.recipe.task}, which answers no questions; fine-tune a pretraining "
                "run: anybatch train squad-demo --set model.path=RUN"
            )
        return self.scores(self.load(folder).to(local_device()), at_end=False)


def fresh(make: Callable[[], Model]) -> Model:
    """Makes the model with `make`; InputError if its shape is impossible, or too large for the memory."""
    try:
        # The system allocates memory that it does not have, and kills the process that uses it: so a model without
        # content comes first.
        with torch.device("meta"):
            needed = sum(parameter.numel() * parameter.element_size() for parameter in make().parameters())
        if needed > half_of_memory():
            raise InputError(
                f"its parameters take {needed / 2**30:,.1f} GiB, more than half of this machine's memory; choose "
                "smaller settings of model, or of what its shape follows from, such as phases.0.image_size"
            )
        return make()
    # torch raises RuntimeError if there is no room for a model.
    except (ValueError, RuntimeError) as error:
        raise InputError(f"model: {' '.join(str(error).split())}") from None


def tokens(phase: Any, count: int) -> dict[str, Tensor]:
    """The inputs of an encoder, for `Outline.inputs`."""
    names = ("input_ids", "token_type_ids", "attention_mask")
    return {name: numbers(count, phase.sequence_length) for name in names}


def numbers(*shape: int) -> Tensor:
    """Integers without content."""
    return torch.empty(shape, dtype=torch.int64, device="meta")
