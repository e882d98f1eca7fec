"""Turns a recipe's phases into the engine's: examples, and learning rate, warm-up and steps by the reference's rule."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from anybatch.data.batch import Batch, Source
from anybatch.data.images.source import ImageSource
from anybatch.data.sampling import Stream, checksum
from anybatch.engine import Phase
from anybatch.engine.job import Promise
from anybatch.errors import InputError
from anybatch.recipes.optimizers import tuned_moments
from anybatch.recipes.recipe import Recipe
from anybatch.scaling import Scaled
from anybatch.scaling.schedule import Growing


@dataclass(frozen=True)
class StreamedExamples:
    """The engine's `Examples`: those of `source`, in the order of `stream`."""

    source: Source
    stream: Stream

    def read(self, start: int, count: int) -> Batch:
        """The run's examples number `start` to `start + count - 1`."""
        epochs, examples = self.stream.at(start, count)
        return replace(self.source.batch(epochs, examples), checksum=checksum(epochs, examples))

    def promised(self, start: int, count: int) -> Promise | None:
        """What is known of these examples before they are read, if they are images."""
        if not isinstance(self.source, ImageSource):
            return None
        epochs, examples = self.stream.at(start, count)
        read = partial(self.source.batch, epochs, examples)
        return Promise(self.source.promised_targets(count), checksum(epochs, examples), read)


def held_out_batches(source: Source, count: int, micro_batch_size: int) -> list[Batch]:
    """The first `count` examples of a shuffled `source` (all, if it has fewer), each as it is in epoch 0."""
    examples = StreamedExamples(source, Stream(source.num_examples, seed=0))
    count = min(count, source.num_examples)
    return [examples.read(start, min(micro_batch_size, count - start)) for start in range(0, count, micro_batch_size)]


def plan_phases(
    recipe: Recipe,
    source_of: Callable[[Any], Source],
    flops_of: Callable[[Any], float | None] = lambda phase: None,
    group_size: int | None = None,
) -> list[Phase]:
    """Returns the phases of a run.

    Args:
        source_of, flops_of: from a phase's settings to its examples, and to the FLOPs of one.
        group_size: examples that the model processes together.

    Raises:
        InputError: a batch larger than the data, or too large for the reference's warm-up.
    """
    phases = []
    for number, settings in enumerate(recipe.phases):
        source = source_of(settings)
        stands_in = getattr(recipe.data, "builtin", None) == "blank"
        if settings.batch_size > source.num_examples and not stands_in:
            raise InputError(
                f"phases.{number}.batch_size = {settings.batch_size} is larger than the data, which has "
                f"{source.num_examples} examples; choose a smaller batch or more data"
            )
        scaled = scaled_phase(recipe, number, source.num_examples)
        phases.append(
            Phase(
                examples=StreamedExamples(source, Stream(source.num_examples, recipe.seed)),
                global_batch_size=settings.batch_size,
                num_steps=scaled.num_steps,
                lr=scaled.lr,
                warmup_steps=scaled.warmup_steps,
                schedule=Growing(*settings.lr_range, scaled.num_steps) if settings.lr_range else scaled.schedule,
                hyperparameters=scaled.optimizer,
                carry_over=settings.carry_over,
                flops_per_example=flops_of(settings),
                group_size=group_size,
            )
        )
    return phases


def scaled_phase(recipe: Recipe, number: int, epoch_examples: int) -> Scaled:
    """Returns the rules' settings for a phase, with the values that the phase or the optimizer sets itself.

    Raises:
        InputError: the batch is too large for the reference's warm-up or moments, or the optimizer lacks a setting of
            the reference.
    """
    settings = recipe.phases[number]
    tuned = tuned_moments(recipe.optimizer, recipe.reference)
    try:
        reference = replace(recipe.reference, **tuned)
        if recipe.ramp:
            stages = [(phase.share, phase.batch_size) for phase in recipe.phases]
            scaled = reference.over(epoch_examples).ramp(stages)[number]
        else:
            scaled = reference.over(epoch_examples, settings.share).at(settings.batch_size)
    except ValueError as error:
        raise InputError(f"ramp: {error}" if recipe.ramp else f"phases.{number}: {error}") from None
    for own in (settings, recipe.optimizer):
        if own.lr is not None:
            scaled = replace(scaled, lr=own.lr)
        if own.warmup_ratio is not None:
            scaled = replace(scaled, warmup_steps=round(own.warmup_ratio * scaled.num_steps))
    fixed = {name: value for name, value in recipe.optimizer.options.items() if name in tuned}
    if recipe.optimizer.weight_decay is not None:
        fixed["weight_decay"] = recipe.optimizer.weight_decay
    return replace(scaled, **fixed)
