"""Builds a pretraining run: masked batches from shards, BERT, an optimizer at the scaled rate."""

import math
from dataclasses import fields
from pathlib import Path

from tokenizers import Tokenizer
from torch import nn

from anybatch.data import prepare, vocabulary
from anybatch.data.batch import Batch
from anybatch.data.frequencies import masked_frequency_loss
from anybatch.data.mlm import PretrainingSource
from anybatch.data.shards import Shards, open_shards
from anybatch.engine import Evaluation, Job, evaluate
from anybatch.engine.devices import local_device
from anybatch.engine.job import Scores
from anybatch.errors import InputError
from anybatch.files import sha256
from anybatch.models import (
    BertSettings,
    EncoderSettings,
    PretrainingModel,
    pretraining_flops,
    pretraining_model,
    save_tokenizer,
    weights_fingerprint,
)
from anybatch.recipes.job import fresh, job_of
from anybatch.recipes.phases import fingerprints, plan_phases, summarise
from anybatch.recipes.recipe import PretrainingRecipe, TextPhaseSettings
from anybatch.recipes.run_text import data_folder, open_text
from anybatch.recipes.streaming import held_out_batches
from anybatch.runs import Run, sound_model


def build(recipe: PretrainingRecipe, run: Run) -> Job:
    """The job of a pretraining recipe; without a `data.path`, the built-in text is prepared in the run folder.

    Raises:
        InputError: data, vocabulary, model or batch size do not fit each other.
    """
    folder, tokenizer, shards = open_text(recipe, run)
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

    return job_of(
        recipe,
        model,
        phases,
        held_out=batches,
        inputs=fingerprints(
            recipe,
            run,
            vocabulary=vocabulary.fingerprint(tokenizer),
            data=sha256(folder / prepare.TRAIN / "index.json"),
            **_start(recipe),
        ),
        score=lambda finished: _scores(evaluate(finished, batches)),
        export=export,
        summary={
            **summarise(recipe, phases, model),
            # The relation of sentences is a fair coin to a model that sees no more than frequencies.
            "context_free_loss": masked_frequency_loss(shards, batches)
            + (0.0 if recipe.data.objective == "full_sentences" else math.log(2)),
        },
    )


def score_finished(recipe: PretrainingRecipe, run: Run) -> Scores:
    """Held-out losses and accuracies of the run's saved model."""
    folder = data_folder(recipe, run)
    tokenizer = prepare.tokenizer_of(folder)
    model = PretrainingModel.load(run.sound_model(), _relation(recipe)).to(local_device())
    return _scores(evaluate(model, _held_out(recipe, folder, tokenizer)))


def _flops(recipe: PretrainingRecipe, tokenizer: Tokenizer, phase: TextPhaseSettings) -> float:
    settings = _settings(recipe, tokenizer)
    return pretraining_flops(settings, phase.sequence_length, recipe.data.masking_rate)


def _model(recipe: PretrainingRecipe, tokenizer: Tokenizer) -> PretrainingModel:
    settings = _settings(recipe, tokenizer)
    if recipe.model.path is not None:
        return _pretrained(sound_model(Path(recipe.model.path)), settings, _relation(recipe), recipe.seed)
    return fresh(lambda: pretraining_model(settings, recipe.seed, _relation(recipe)))


def _settings(recipe: PretrainingRecipe, tokenizer: Tokenizer) -> BertSettings:
    return encoder_settings(recipe, tokenizer.get_vocab_size(), vocabulary.special_ids(tokenizer)["[PAD]"])


def encoder_settings(recipe: PretrainingRecipe, vocabulary_size: int, padding: int = 0) -> BertSettings:
    """The shape of the recipe's model for a vocabulary; `padding` is the number of [PAD]."""
    shape = {field.name: getattr(recipe.model, field.name) for field in fields(EncoderSettings)}
    relation = recipe.data.objective != "full_sentences"
    return BertSettings(vocabulary_size=vocabulary_size, relation=relation, padding=padding, **shape)


def _relation(recipe: PretrainingRecipe) -> str:
    return "sop" if recipe.data.objective == "sentence_order" else "nsp"


def _pretrained(folder: Path, settings: BertSettings, relation: str, seed: int) -> PretrainingModel:
    """The model in a folder; InputError where its shape is not the recipe's, or its vocabulary not that of the data."""
    model = PretrainingModel.load(folder, relation, seed=seed)
    found = model.settings
    for field, name in (
        ("tokens in the vocabulary", "vocabulary_size"),
        *((f"model.{name}", name) for name in ("hidden_size", "num_layers", "num_heads", "max_positions", "pre_norm")),
    ):
        if getattr(found, name) != getattr(settings, name):
            raise InputError(
                f"{folder}: {field}: {getattr(found, name)} there, {getattr(settings, name)} here; they must be the "
                "same"
            )
    if settings.relation and not found.relation:
        raise InputError(f"{folder}: was trained without a relation of sentences; set data.objective=full_sentences")
    return model


def _start(recipe: PretrainingRecipe) -> dict[str, str]:
    """The weights that the run starts from, where they are somebody's."""
    path = recipe.model.path
    return {} if path is None else {"pretrained model": weights_fingerprint(Path(path))}


def _held_out(recipe: PretrainingRecipe, folder: Path, tokenizer: Tokenizer) -> list[Batch]:
    """What every run on this data is evaluated on, whatever its seed."""
    source = _source(recipe, open_shards(folder / prepare.HELD_OUT), tokenizer, recipe.phases[-1], seed=0)
    return held_out_batches(source, recipe.data.num_held_out, recipe.engine.evaluation_batch_size)


def _source(
    recipe: PretrainingRecipe, shards: Shards, tokenizer: Tokenizer, phase: TextPhaseSettings, seed: int
) -> PretrainingSource:
    return PretrainingSource(
        shards,
        tokenizer,
        phase.sequence_length,
        seed=seed,
        settings=recipe.data,
        max_predictions=phase.max_predictions,
    )


def _scores(evaluation: Evaluation) -> Scores:
    return {
        "loss": evaluation.loss,
        **{f"{name}_loss": value for name, value in evaluation.losses.items()},
        **{f"{name}_accuracy": value for name, value in evaluation.accuracy.items()},
    }
