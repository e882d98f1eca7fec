"""Pretraining runs: masked batches from shards, BERT, an optimizer at the scaled learning rate."""

import math
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from anybatch.data import vocabulary
from anybatch.data.mlm import PretrainingSource
from anybatch.data.shards import Shards
from anybatch.engine import evaluate
from anybatch.engine.job import Scores
from anybatch.errors import InputError
from anybatch.models.bert import BertSettings, EncoderSettings, PretrainingModel, pretraining_flops, pretraining_model
from anybatch.models.pretrained import fingerprint as weights_fingerprint
from anybatch.recipes.recipe import PretrainingRecipe, TextPhaseSettings
from anybatch.recipes.run_text import TextTask, vocabulary_size
from anybatch.recipes.task import Outline, fresh, numbers, tokens
from anybatch.runs import sound_model


class Pretraining(TextTask[PretrainingRecipe]):
    """Masked words, and how two sentences are related."""

    accuracies: ClassVar = {
        "mlm": "masked-word accuracy",
        "nsp": "next-sentence accuracy",
        "sop": "sentence-order accuracy",
    }
    model_name = "BERT"

    @staticmethod
    def outline(recipe: PretrainingRecipe) -> Outline:
        settings = encoder_settings(recipe, vocabulary_size(recipe.data))
        model = fresh(lambda: pretraining_model(settings, recipe.seed))

        def inputs(phase: Any, count: int) -> dict[str, Tensor]:
            masked = max(1, round(recipe.data.masking_rate * phase.sequence_length))
            targets = numbers(count * min(masked, phase.max_predictions or masked))
            labels = {"next_sentence_label": numbers(count)} if settings.relation else {}
            return {**tokens(phase, count), "masked_positions": targets, "masked_labels": targets, **labels}

        return Outline(model, inputs, recipe.data.num_held_out)

    @cached_property
    def settings(self) -> BertSettings:
        padding = vocabulary.special_ids(self.tokenizer)["[PAD]"]
        return encoder_settings(self.recipe, self.tokenizer.get_vocab_size(), padding)

    @property
    def relation(self) -> str:
        return "sop" if self.recipe.data.objective == "sentence_order" else "nsp"

    def model(self) -> PretrainingModel:
        """Makes the model, or loads that of `model.path`; InputError if its shape or vocabulary is not this run's."""
        recipe, settings = self.recipe, self.settings
        if recipe.model.path is None:
            return fresh(lambda: pretraining_model(settings, recipe.seed, self.relation))
        folder = sound_model(Path(recipe.model.path))
        model = PretrainingModel.load(folder, self.relation, seed=recipe.seed)
        found = model.settings
        for field, name in (
            ("tokens in the vocabulary", "vocabulary_size"),
            *(
                (f"model.{each}", each)
                for each in ("hidden_size", "num_layers", "num_heads", "max_positions", "pre_norm")
            ),
        ):
            if getattr(found, name) != getattr(settings, name):
                raise InputError(
                    f"{folder}: {field}: {getattr(found, name)} there, {getattr(settings, name)} here; they must be "
                    "the same"
                )
        if settings.relation and not found.relation:
            raise InputError(
                f"{folder}: was trained without a relation of sentences; set data.objective=full_sentences"
            )
        return model

    def examples(self, shards: Shards, phase: TextPhaseSettings, seed: int) -> PretrainingSource:
        return PretrainingSource(
            shards,
            self.tokenizer,
            phase.sequence_length,
            seed,
            settings=self.recipe.data,
            max_predictions=phase.max_predictions,
        )

    def flops(self, phase: TextPhaseSettings) -> float:
        return pretraining_flops(self.settings, phase.sequence_length, self.recipe.data.masking_rate)

    def inputs(self) -> dict[str, str]:
        path = self.recipe.model.path
        weights = {} if path is None else {"pretrained model": weights_fingerprint(Path(path))}
        return super().inputs() | weights

    def summary(self) -> dict[str, Any]:
        # For a model that knows only frequencies, the relation of sentences is a coin toss.
        found = self.train.frequency_loss([batch.inputs["masked_labels"].numpy() for batch in self.held_out])
        return {"context_free_loss": found + (math.log(2) if self.settings.relation else 0.0)}

    def load(self, folder: Path) -> PretrainingModel:
        return PretrainingModel.load(folder, self.relation)

    def scores(self, model: PretrainingModel, *, at_end: bool) -> Scores:
        found = evaluate(model, self.held_out)
        return {
            "loss": found.loss,
            **{f"{name}_loss": value for name, value in found.losses.items()},
            **{f"{name}_accuracy": value for name, value in found.accuracy.items()},
        }


def encoder_settings(recipe: PretrainingRecipe, vocabulary_size: int, padding: int = 0) -> BertSettings:
    """Returns the shape of the recipe's model for a vocabulary; `padding` is the number of [PAD]."""
    shape = {field.name: getattr(recipe.model, field.name) for field in fields(EncoderSettings)}
    relation = recipe.data.objective != "full_sentences"
    return BertSettings(vocabulary_size=vocabulary_size, relation=relation, padding=padding, **shape)
