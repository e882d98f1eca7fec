"""A recipe's model without content, and how much data it has: for whoever counts what a run takes, and runs nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anybatch.data import prepare
from anybatch.data.squad import split_by_article
from anybatch.models import (
    GptSettings,
    causal_model,
    image_classifier,
    pretraining_model,
    untrained_question_answering_model,
)
from anybatch.models.bert import read_encoder_config
from anybatch.recipes.bert import bert_demo
from anybatch.recipes.bert_large import bert_base
from anybatch.recipes.builtin_text import VOCABULARY_SIZES
from anybatch.recipes.images import network_settings, open_images
from anybatch.recipes.job import fresh
from anybatch.recipes.pretraining import encoder_settings
from anybatch.recipes.preview import stand_in, with_stand_in
from anybatch.recipes.questions import find_pretrained, open_questions
from anybatch.recipes.recipe import CausalRecipe, ImageRecipe, PretrainingRecipe, QuestionsRecipe, Recipe


@dataclass(frozen=True)
class Outline:
    """What a recipe would run.

    Args:
        model: on torch's meta device: shapes without content.
        inputs: the model's arguments for a phase's settings and a number of examples, none of them padded; on the same.
        num_held_out: examples that an evaluation sees.
        epoch_examples: of the data; None for text, which has to be read for it.
        supposed: in words, what stands in for what the recipe leaves open.
    """

    model: nn.Module
    inputs: Callable[[Any, int], dict[str, Tensor]]
    num_held_out: int
    epoch_examples: int | None = None
    supposed: tuple[str, ...] = ()


def outline(recipe: Recipe) -> Outline:
    """The outline of `recipe`; no weight is made and no text is read.

    Raises:
        InputError: a shape that is impossible, or a path that does not hold what the recipe needs.
    """
    with torch.device("meta"):
        if isinstance(recipe, PretrainingRecipe):
            return _pretraining(recipe)
        if isinstance(recipe, CausalRecipe):
            return _causal(recipe)
        if isinstance(recipe, QuestionsRecipe):
            return _questions(recipe)
        return _images(recipe)


def _pretraining(recipe: PretrainingRecipe) -> Outline:
    settings = encoder_settings(recipe, _vocabulary_size(recipe))
    model = fresh(lambda: pretraining_model(settings, recipe.seed))

    def inputs(phase: Any, count: int) -> dict[str, Tensor]:
        masked = max(1, round(recipe.data.masking_rate * phase.sequence_length))
        targets = _numbers(count * min(masked, phase.max_predictions or masked))
        labels = {"next_sentence_label": _numbers(count)} if settings.relation else {}
        return {**_tokens(phase, count), "masked_positions": targets, "masked_labels": targets, **labels}

    return Outline(model, inputs, recipe.data.num_held_out)


def _causal(recipe: CausalRecipe) -> Outline:
    settings = GptSettings(vocabulary_size=_vocabulary_size(recipe), **vars(recipe.model))
    model = fresh(lambda: causal_model(settings, recipe.seed))
    return Outline(
        model, lambda phase, count: {"input_ids": _numbers(count, phase.sequence_length)}, recipe.data.num_held_out
    )


def _questions(recipe: QuestionsRecipe) -> Outline:
    training, held_out = split_by_article(open_questions(recipe), recipe.data.held_out_every)
    if recipe.model.path is None:
        encoder = bert_demo() if recipe.name == "squad-demo" else bert_base()
        config = _pretraining(encoder).model.bert.config  # type: ignore[union-attr]
        supposed: tuple[str, ...] = (f"the model of {encoder.name}, for model.path is not set",)
    else:
        config, supposed = read_encoder_config(find_pretrained(recipe).model), ()

    def inputs(phase: Any, count: int) -> dict[str, Tensor]:
        answers = {"start_positions": _numbers(count), "end_positions": _numbers(count)}
        return {**_tokens(phase, count), **answers}

    # A long passage is cut into several windows; to count them takes the vocabulary.
    supposed = (*supposed, "one window a question")
    return Outline(untrained_question_answering_model(config), inputs, len(held_out), len(training), supposed)


def _images(recipe: ImageRecipe) -> Outline:
    words = stand_in(recipe)
    shown = with_stand_in(recipe) if words else recipe
    assert isinstance(shown, ImageRecipe)
    training, held_out = open_images(shown)
    size = max(phase.image_size for phase in recipe.phases)
    model = fresh(lambda: image_classifier(network_settings(recipe, training, size), recipe.seed))

    def inputs(phase: Any, count: int) -> dict[str, Tensor]:
        images = torch.empty(count, len(recipe.data.mean), phase.image_size, phase.image_size, device="meta")
        return {"images": images, "labels": _numbers(count)}

    supposed = (f"{words}, for data.path is not set",) if words else ()
    return Outline(model, inputs, len(held_out.classes.labels), len(training.classes.labels), supposed)


def _vocabulary_size(recipe: PretrainingRecipe | CausalRecipe) -> int:
    if recipe.data.path is not None:
        return prepare.tokenizer_of(Path(recipe.data.path)).get_vocab_size()
    return recipe.data.source_vocabulary or VOCABULARY_SIZES[recipe.data.tokenizer or "wordpiece"]


def _tokens(phase: Any, count: int) -> dict[str, Tensor]:
    names = ("input_ids", "token_type_ids", "attention_mask")
    return {name: _numbers(count, phase.sequence_length) for name in names}


def _numbers(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.int64, device="meta")
