"""A kind of run, as the other rooms see it: one value, listed in tasks.py."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from anybatch.data.batch import Source
from anybatch.engine import Job
from anybatch.engine.job import Scores
from anybatch.recipes.recipe import RecipeSettings
from anybatch.runs import Run

R = TypeVar("R", bound=RecipeSettings)


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


@dataclass(frozen=True)
class Task(Generic[R]):
    """A kind of run."""

    build: Callable[[R, Run], Job]
    """The job; InputError if data, model and batch size do not fit each other."""
    score: Callable[[R, Run], Scores]
    """Scores of the run's saved model on its held-out data."""
    source: Callable[[R, Run], Source]
    """The first phase's examples for training; no model is made."""
    outline: Callable[[R], Outline]
    """The outline, made in a block of torch's meta device."""
    describe: Callable[[R], tuple[str, str]]
    """The model and the data, in words."""
    accuracies: Mapping[str, str]
    """What an evaluation counts, by the metric's name, with its common name."""
    answer: Callable[[R, Run, Path | None, float | None], Scores] | None = None
    """Scores of answers to the questions in a file, under a null threshold; None: the kind answers no questions."""


def tokens(phase: Any, count: int) -> dict[str, Tensor]:
    """The inputs of an encoder, for `Outline.inputs`."""
    names = ("input_ids", "token_type_ids", "attention_mask")
    return {name: numbers(count, phase.sequence_length) for name in names}


def numbers(*shape: int) -> Tensor:
    """Integers without content."""
    return torch.empty(shape, dtype=torch.int64, device="meta")
