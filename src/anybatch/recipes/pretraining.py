"""Pretraining runs: masked batches from shards, BERT, an optimizer at the scaled learning rate."""

import math
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor

from anybatch.data import vocabulary
from anybatch.data.batch import Batch
from anybatch.data.mlm import PretrainingSource
from anybatch.data.shards import Shards
from anybatch.engine import Evaluation, Job, evaluate
from anybatch.engine.devices import local_device
from anybatch.engine.job import Scores
from anybatch.errors import InputError
from anybatch.models.bert import BertSettings, EncoderSettings, PretrainingModel, pretraining_flops, pretraining_model
from anybatch.models.pretrained import fingerprint as weights_fingerprint
from anybatch.recipes.job import fresh, job_of
from anybatch.recipes.phases import plan_phases
from anybatch.recipes.recipe import PretrainingRecipe, TextPhaseSettings
from anybatch.recipes.run_text import Text, described, open_text, vocabulary_size
from anybatch.recipes.streaming import held_out_batches
from anybatch.recipes.task import Outline, Task, numbers, tokens
from anybatch.runs import Run, sound_model


def build(recipe: PretrainingRecipe, run: Run) -> Job:
    """Builds the job of a pretraining recipe; without a `data.path`, prepares the built-in text in the run folder.

    Raises:
        InputError: data, vocabulary, model or batch size do not fit each other.
    """
    text = open_text(recipe, run)
    settings = _settings(recipe, text.tokenizer)
    phases = plan_phases(
        recipe,
        partial(_source, recipe, text.train, text.tokenizer, recipe.seed),
        lambda phase: pretraining_flops(settings, phase.sequence_length, recipe.data.masking_rate),
    )
    batches = _held_out(recipe, text)
    path, relation = recipe.model.path, _relation(recipe)
    if path is None:
        model = fresh(lambda: pretraining_model(settings, recipe.seed, relation))
    else:
        model = _pretrained(sound_model(Path(path)), settings, relation, recipe.seed)
    return job_of(
        recipe,
        run,
        model,
        phases,
        held_out=batches,
        inputs={
            **text.fingerprints(),
            **({} if path is None else {"pretrained model": weights_fingerprint(Path(path))}),
        },
        score=lambda finished: _scores(evaluate(finished, batches)),
        tokenizer=text.tokenizer,
        # For a model that knows only frequencies, the relation of sentences is a coin toss.
        context_free_loss=text.train.frequency_loss([batch.inputs["masked_labels"].numpy() for batch in batches])
        + (math.log(2) if settings.relation else 0.0),
    )


def score(recipe: PretrainingRecipe, run: Run) -> Scores:
    """Returns held-out losses and accuracies of the run's saved model."""
    model = PretrainingModel.load(run.sound_model(), _relation(recipe)).to(local_device())
    return _scores(evaluate(model, _held_out(recipe, open_text(recipe, run))))


def source(recipe: PretrainingRecipe, run: Run) -> PretrainingSource:
    text = open_text(recipe, run)
    return _source(recipe, text.train, text.tokenizer, recipe.seed, recipe.phases[0])


def outline(recipe: PretrainingRecipe) -> Outline:
    settings = encoder_settings(recipe, vocabulary_size(recipe.data))
    model = fresh(lambda: pretraining_model(settings, recipe.seed))

    def inputs(phase: Any, count: int) -> dict[str, Tensor]:
        masked = max(1, round(recipe.data.masking_rate * phase.sequence_length))
        targets = numbers(count * min(masked, phase.max_predictions or masked))
        labels = {"next_sentence_label": numbers(count)} if settings.relation else {}
        return {**tokens(phase, count), "masked_positions": targets, "masked_labels": targets, **labels}

    return Outline(model, inputs, recipe.data.num_held_out)


def encoder_settings(recipe: PretrainingRecipe, vocabulary_size: int, padding: int = 0) -> BertSettings:
    """Returns the shape of the recipe's model for a vocabulary; `padding` is the number of [PAD]."""
    shape = {field.name: getattr(recipe.model, field.name) for field in fields(EncoderSettings)}
    relation = recipe.data.objective != "full_sentences"
    return BertSettings(vocabulary_size=vocabulary_size, relation=relation, padding=padding, **shape)


def _settings(recipe: PretrainingRecipe, tokenizer: Tokenizer) -> BertSettings:
    return encoder_settings(recipe, tokenizer.get_vocab_size(), vocabulary.special_ids(tokenizer)["[PAD]"])


def _relation(recipe: PretrainingRecipe) -> str:
    return "sop" if recipe.data.objective == "sentence_order" else "nsp"


def _pretrained(folder: Path, settings: BertSettings, relation: str, seed: int) -> PretrainingModel:
    """Loads the model in a folder; InputError if its shape is not the recipe's, or its vocabulary not the data's."""
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


def _held_out(recipe: PretrainingRecipe, text: Text) -> list[Batch]:
    """Returns the batches on which every run on this data is evaluated, for any seed."""
    source = _source(recipe, text.held_out, text.tokenizer, 0, recipe.phases[-1])
    return held_out_batches(source, recipe.data.num_held_out, recipe.engine.evaluation_batch_size)


def _source(
    recipe: PretrainingRecipe, shards: Shards, tokenizer: Tokenizer, seed: int, phase: TextPhaseSettings
) -> PretrainingSource:
    most = phase.max_predictions
    return PretrainingSource(shards, tokenizer, phase.sequence_length, seed, settings=recipe.data, max_predictions=most)


def _scores(evaluation: Evaluation) -> Scores:
    return {
        "loss": evaluation.loss,
        **{f"{name}_loss": value for name, value in evaluation.losses.items()},
        **{f"{name}_accuracy": value for name, value in evaluation.accuracy.items()},
    }


TASK = Task(
    build=build,
    score=score,
    source=source,
    outline=outline,
    describe=partial(described, "BERT"),
    accuracies={
        "mlm": "masked-word accuracy",
        "nsp": "next-sentence accuracy",
        "sop": "sentence-order accuracy",
    },
)
