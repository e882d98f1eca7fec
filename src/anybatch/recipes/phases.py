"""From a recipe's phases to the engine's: rate, warm-up and steps from the reference, examples from a stream."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from anybatch.data.batch import Batch, Source
from anybatch.data.sampling import Stream
from anybatch.engine import Phase
from anybatch.errors import InputError
from anybatch.recipes.recipe import PhaseSettings, Recipe
from anybatch.scaling import schedule


@dataclass(frozen=True)
class StreamedExamples:
    """The examples of `source` in the order of `stream`."""

    source: Source
    stream: Stream

    def read(self, start: int, count: int) -> Batch:
        return self.source.batch(*self.stream.at(start, count))


def plan_phases(recipe: Recipe, source_of: Callable[[PhaseSettings], Source]) -> list[Phase]:
    """The phases of a run; `optimizer.lr` and `optimizer.warmup_ratio`, where set, replace what the rule gives.

    Raises:
        InputError: a batch larger than the data, or too large for the reference's warm-up.
    """
    phases = []
    for number, settings in enumerate(recipe.phases):
        source = source_of(settings)
        if settings.batch_size > source.num_examples:
            raise InputError(
                f"phases.{number}.batch_size = {settings.batch_size} is larger than the data, which has "
                f"{source.num_examples} examples; choose a smaller batch or prepare more text"
            )
        try:
            scaled = recipe.reference.at(settings.batch_size, settings.share, source.num_examples)
        except ValueError as error:
            raise InputError(f"phases.{number}: {error}") from None
        lr, warmup_steps = scaled.lr, scaled.warmup_steps
        if recipe.optimizer.lr is not None:
            lr = recipe.optimizer.lr
        if recipe.optimizer.warmup_ratio is not None:
            warmup_steps = round(recipe.optimizer.warmup_ratio * scaled.num_steps)
        phases.append(
            Phase(
                examples=StreamedExamples(source, Stream(source.num_examples, recipe.seed)),
                global_batch_size=settings.batch_size,
                num_steps=scaled.num_steps,
                lr=lr,
                warmup_steps=warmup_steps,
                schedule=schedule(
                    scaled.num_steps, warmup_steps, decay=scaled.decay, power=scaled.power, join=scaled.join
                ),
            )
        )
    return phases


def held_out_batches(source: Source, count: int, micro_batch_size: int) -> list[Batch]:
    """The first `count` examples of a shuffled `source` (all, where it has fewer), each as it is in epoch 0."""
    examples = StreamedExamples(source, Stream(source.num_examples, seed=0))
    count = min(count, source.num_examples)
    return [examples.read(start, min(micro_batch_size, count - start)) for start in range(0, count, micro_batch_size)]


def summarise(recipe: Recipe, phases: list[Phase], model: nn.Module, parent: str | None = None) -> dict[str, Any]:
    """The settings that result.json repeats, so that a table of runs needs no other file."""
    return {
        "recipe": recipe.name,
        "task": recipe.task,
        "optimizer": recipe.optimizer.name,
        "global_batch_size": phases[0].global_batch_size,
        "micro_batch_size": recipe.engine.micro_batch_size,
        "lr": phases[0].lr,
        "warmup_steps": phases[0].warmup_steps,
        "seed": recipe.seed,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "reference": recipe.reference.model_dump(include={"batch_size", "lr", "warmup_ratio"}),
        "parent": parent,
    }
