"""Builds a pretraining run: masked batches from shards, BERT, an optimizer at the scaled rate."""

import math
from pathlib import Path

from tokenizers import Tokenizer
from torch import nn

from anybatch.data import prepare, vocabulary
from anybatch.data.batch import Batch
from anybatch.data.frequencies import frequency_loss
from anybatch.data.mlm import PretrainingSource
from anybatch.data.shards import Shards, open_shards
from anybatch.engine import Evaluation, Job, evaluate
from anybatch.engine.job import Scores
from anybatch.errors import InputError
from anybatch.files import sha256
from anybatch.models import BertSettings, PretrainingModel, pretraining_flops, pretraining_model, save_tokenizer
from anybatch.recipes.builtin_text import prepare_builtin_text
from anybatch.recipes.optimizers import build_optimizer
from anybatch.recipes.phases import execution, fingerprints, held_out_batches, plan_phases, summarise
from anybatch.recipes.recipe import PhaseSettings, PretrainingRecipe
from anybatch.runs import Run


def build(recipe: PretrainingRecipe, run: Run) -> Job:
    """The job of a pretraining recipe; without a `data.path`, the built-in text is prepared in the run folder.

    Raises:
        InputError: data, vocabulary, model or batch size do not fit each other.
    """
    folder = data_folder(recipe, run)
    if recipe.data.path is None and not folder.exists():
        prepare_builtin_text(folder)
    tokenizer = vocabulary.load(folder / prepare.TOKENIZER)
    longest = max(phase.sequence_length for phase in recipe.phases)
    if longest > recipe.model.max_positions:
        raise InputError(
            f"a phase's sequence_length = {longest} is above model.max_positions = {recipe.model.max_positions}"
        )
    shards = open_shards(folder / prepare.TRAIN)
    phases = plan_phases(
        recipe,
        lambda phase: _source(recipe, shards, tokenizer, phase, seed=recipe.seed),
        lambda phase: _flops(recipe, tokenizer, phase),
    )
    batches = _held_out(recipe, folder, tokenizer)
    model = _model(recipe, tokenizer)

    def export(finished: nn.Module, target: Path) -> None:
        assert isinstance(finished, PretrainingModel)
        finished.save(target)
        save_tokenizer(tokenizer, target, recipe.model.max_positions)

    return Job(
        model=model,
        optimizer=build_optimizer(model, recipe.optimizer, phases[0].lr),
        phases=phases,
        held_out=batches,
        seed=recipe.seed,
        inputs=fingerprints(
            recipe,
            vocabulary=vocabulary.fingerprint(tokenizer),
            data=sha256(folder / prepare.TRAIN / "index.json"),
        ),
        max_grad_norm=recipe.max_grad_norm,
        execution=execution(recipe),
        score=lambda finished: _scores(evaluate(finished, batches)),
        export=export,
        summary={
            **summarise(recipe, phases, model),
            # Next sentence is a fair coin to a model that sees no more than frequencies.
            "context_free_loss": frequency_loss(shards, batches) + math.log(2),
        },
    )


def score_finished(recipe: PretrainingRecipe, run: Run) -> Scores:
    """Held-out losses and accuracies of the run's saved model."""
    folder = data_folder(recipe, run)
    tokenizer = vocabulary.load(folder / prepare.TOKENIZER)
    return _scores(evaluate(PretrainingModel.load(run.model), _held_out(recipe, folder, tokenizer)))


def data_folder(recipe: PretrainingRecipe, run: Run) -> Path:
    """Where the run's shards lie."""
    return run.path / "data" if recipe.data.path is None else Path(recipe.data.path)


def _flops(recipe: PretrainingRecipe, tokenizer: Tokenizer, phase: PhaseSettings) -> float:
    settings = BertSettings(vocabulary_size=tokenizer.get_vocab_size(), **recipe.model.model_dump())
    return pretraining_flops(settings, phase.sequence_length, recipe.data.masking_rate)


def _model(recipe: PretrainingRecipe, tokenizer: Tokenizer) -> PretrainingModel:
    settings = BertSettings(vocabulary_size=tokenizer.get_vocab_size(), **recipe.model.model_dump())
    try:
        return pretraining_model(settings, recipe.seed)
    # torch says with a RuntimeError that there is no room for a model.
    except (ValueError, RuntimeError) as error:
        raise InputError(f"model: {' '.join(str(error).split())}") from None


def _held_out(recipe: PretrainingRecipe, folder: Path, tokenizer: Tokenizer) -> list[Batch]:
    """What every run on this data is evaluated on, whatever its seed."""
    source = _source(recipe, open_shards(folder / prepare.HELD_OUT), tokenizer, recipe.phases[-1], seed=0)
    return held_out_batches(source, recipe.data.num_held_out, recipe.engine.evaluation_batch_size)


def _source(
    recipe: PretrainingRecipe, shards: Shards, tokenizer: Tokenizer, phase: PhaseSettings, seed: int
) -> PretrainingSource:
    return PretrainingSource(shards, tokenizer, phase.sequence_length, seed=seed, masking_rate=recipe.data.masking_rate)


def _scores(evaluation: Evaluation) -> Scores:
    return {
        "loss": evaluation.loss,
        **{f"{name}_loss": value for name, value in evaluation.losses.items()},
        **{f"{name}_accuracy": value for name, value in evaluation.accuracy.items()},
    }
