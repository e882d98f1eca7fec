"""Builds a fine-tuning run on extractive questions, and scores its answers."""

import hashlib
import json
import math
import os
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from tokenizers import Tokenizer
from torch import Tensor

from anybatch.data import vocabulary
from anybatch.data.batch import Batch
from anybatch.data.prepare import TOKENIZER
from anybatch.data.spans import QuestionSource
from anybatch.data.squad import Question, load_builtin, read_questions, split_by_article
from anybatch.engine import evaluate
from anybatch.engine.devices import local_device
from anybatch.engine.job import Scores
from anybatch.errors import InputError
from anybatch.evaluation.answers import Candidates, decode
from anybatch.evaluation.squad_score import score
from anybatch.files import write_json
from anybatch.models.bert import read_encoder_config
from anybatch.models.pretrained import fingerprint as weights_fingerprint
from anybatch.models.question_answering import (
    QuestionAnsweringModel,
    question_answering_model,
    untrained_question_answering_model,
)
from anybatch.recipes.bert import bert_demo
from anybatch.recipes.bert_large import bert_base
from anybatch.recipes.phases import held_out_batches
from anybatch.recipes.pretraining import Pretraining
from anybatch.recipes.recipe import QuestionsRecipe, TextPhaseSettings
from anybatch.recipes.task import Outline, Task, numbers, tokens
from anybatch.runs import Run, sound_model

PREDICTIONS = "predictions.json"
N_BEST = "nbest_predictions.json"
NULL_ODDS = "null_odds.json"


class Questions(Task[QuestionsRecipe]):
    """Extractive questions, from a pretrained encoder."""

    accuracies: ClassVar = {"span": "accuracy of answers"}

    @staticmethod
    def outline(recipe: QuestionsRecipe) -> Outline:
        training, held_out = split_by_article(open_questions(recipe), recipe.data.held_out_every)
        supposed = ["one window a question"]  # A long passage is cut into several; to count them takes the vocabulary.
        if recipe.model.path is None:
            encoder = bert_demo() if recipe.name == "squad-demo" else bert_base()
            pretrained: Any = Pretraining.outline(encoder).model
            config = pretrained.bert.config
            supposed.insert(0, f"the model of {encoder.name}, for model.path is not set")
        else:
            config = read_encoder_config(find_pretrained(recipe)[0])

        def inputs(phase: Any, count: int) -> dict[str, Tensor]:
            return {**tokens(phase, count), "start_positions": numbers(count), "end_positions": numbers(count)}

        model = untrained_question_answering_model(config)
        return Outline(model, inputs, len(held_out), len(training), tuple(supposed))

    @classmethod
    def describe(cls, recipe: QuestionsRecipe) -> tuple[str, str]:
        return f"The encoder of {recipe.model.path}", recipe.data.path or "the questions that come with the package"

    @cached_property
    def pretrained(self) -> tuple[Path, Path | None]:
        return find_pretrained(self.recipe)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return vocabulary.load(vocabulary.in_folder(self.pretrained[0]))

    @cached_property
    def questions(self) -> tuple[list[Question], list[Question]]:
        """The questions to train on, and those held out."""
        return split_by_article(open_questions(self.recipe), self.recipe.data.held_out_every)

    def model(self) -> QuestionAnsweringModel:
        folder = self.pretrained[0]
        model = question_answering_model(folder, self.recipe.seed)
        if self.tokenizer.get_vocab_size() > model.vocabulary_size:
            raise InputError(
                f"{folder}: its tokenizer.json has {self.tokenizer.get_vocab_size()} tokens, its model "
                f"{model.vocabulary_size}; they do not belong together"
            )
        if (longest := max(phase.sequence_length for phase in self.recipe.phases)) > model.max_positions:
            raise InputError(
                f"a phase's sequence_length = {longest} is above the {model.max_positions} positions of {folder}"
            )
        return model

    def source(self, phase: TextPhaseSettings) -> QuestionSource:
        return _source(self.recipe, self.questions[0], self.tokenizer, phase.sequence_length, self.recipe.seed)

    @cached_property
    def held_out_source(self) -> QuestionSource:
        return _source(self.recipe, self.questions[1], self.tokenizer, self.recipe.phases[-1].sequence_length, seed=0)

    @cached_property
    def held_out(self) -> list[Batch]:
        source = self.held_out_source
        return held_out_batches(source, source.num_examples, self.recipe.engine.evaluation_batch_size)

    def inputs(self) -> dict[str, str]:
        # The rules of scoring change nothing that is learned.
        values = [
            {name: value for name, value in asdict(each).items() if name != "of_v2"} for each in self.questions[0]
        ]
        return {
            "vocabulary": vocabulary.fingerprint(self.tokenizer),
            "data": hashlib.sha256(json.dumps(values).encode()).hexdigest(),
            "pretrained model": weights_fingerprint(self.pretrained[0]),
        }

    def summary(self) -> dict[str, Any]:
        parent = self.pretrained[1]
        return {"parent": None if parent is None else os.path.relpath(parent, self.run.path)}

    def scores(self, model: QuestionAnsweringModel, *, at_end: bool) -> Scores:
        answers = _chosen(predict(model, self.held_out_source, self.recipe), self.recipe)
        return {**_scores(answers, self.questions[1]), "loss": evaluate(model, self.held_out).loss}

    def load(self, folder: Path) -> QuestionAnsweringModel:
        return question_answering_model(folder)

    def evaluate(self, folder: Path, squad_file: Path | None, null_threshold: float | None) -> Scores:
        """Returns exact match and F1 of the model in `folder` on the held-out questions, or on those in `squad_file`.

        For `squad_file` it writes RUN/predictions.json, the answers, id to text, as the official script reads them,
        and RUN/nbest_predictions.json, the best few with their probabilities. If questions may have no answer,
        RUN/null_odds.json holds how much better no answer scores; this is compared with `null_threshold`, or with the
        recipe's threshold.
        """
        recipe, run = self.recipe, self.run
        if null_threshold is not None:
            if not math.isfinite(null_threshold):
                raise InputError(f"--null-threshold {null_threshold}: must be a finite number")
            if not recipe.data.unanswerable:
                raise InputError(
                    f"{run.path}: answers every question, so that a null threshold has no meaning; train it with "
                    "data.unanswerable=true"
                )
            recipe = recipe.model_copy(update={"data": replace(recipe.data, null_threshold=null_threshold)})
        tokenizer = vocabulary.load(folder / TOKENIZER)
        if squad_file is None:
            questions = self.questions[1]
        else:
            questions = _fitting(read_questions(squad_file), recipe, str(squad_file))
        source = _source(recipe, questions, tokenizer, recipe.phases[-1].sequence_length, seed=0, where=squad_file)
        model = self.load(folder).to(local_device())
        found = predict(model, source, recipe, count=1 if squad_file is None else recipe.data.n_best)
        answers = _chosen(found, recipe)
        if squad_file is not None:
            ranked = {name: each.ranked(with_none=recipe.data.unanswerable) for name, each in found.items()}
            write_json(run.path / N_BEST, ranked)
            write_json(run.path / PREDICTIONS, answers)
            if recipe.data.unanswerable:
                write_json(run.path / NULL_ODDS, {name: each.null_odds for name, each in found.items()})
        return _scores(answers, questions)


@torch.no_grad()
def predict(
    model: QuestionAnsweringModel, source: QuestionSource, recipe: QuestionsRecipe, count: int = 1
) -> dict[str, Candidates]:
    """Returns the `count` best answers to each question of `source`, by id."""
    model.eval()
    device = next(model.parameters()).device
    size = recipe.engine.evaluation_batch_size
    starts, ends = [], []
    for first in range(0, source.num_examples, size):
        windows = source.windows(first, min(size, source.num_examples - first))
        start, end = model.logits(**{name: value.to(device) for name, value in windows.items()})
        starts.append(start)
        ends.append(end)
    longest = recipe.data.max_answer_length
    return decode(source, torch.cat(starts), torch.cat(ends), max_answer_length=longest, count=count)


def _chosen(found: dict[str, Candidates], recipe: QuestionsRecipe) -> dict[str, str]:
    threshold = recipe.data.null_threshold if recipe.data.unanswerable else None
    return {name: each.answer(threshold) for name, each in found.items()}


def _scores(answers: dict[str, str], questions: list[Question]) -> Scores:
    """Returns only the percentages: every question is answered here, or left unanswered on purpose."""
    return {name: value for name, value in score(answers, questions).items() if name.endswith(("exact_match", "f1"))}


def find_pretrained(recipe: QuestionsRecipe) -> tuple[Path, Path | None]:
    """Finds the model from which the run starts, and its run, if it has one; InputError if `model.path` holds none."""
    if recipe.model.path is None:
        raise InputError("model.path is not set: name a pretrained run, --set model.path=RUN")
    path = Path(recipe.model.path)
    run = Run(path)
    if run.recipe_file.is_file():
        return run.sound_model(), path
    if not (path / "config.json").is_file():
        raise InputError(
            f"{path}: neither a run folder nor a Hugging Face model folder (no recipe.json, no config.json)"
        )
    return sound_model(path), None


def open_questions(recipe: QuestionsRecipe) -> list[Question]:
    """Returns all questions of the run, for training and held out."""
    if recipe.data.path is None:
        return load_builtin()
    return _fitting(read_questions(Path(recipe.data.path)), recipe, recipe.data.path)


def _fitting(questions: list[Question], recipe: QuestionsRecipe, where: str) -> list[Question]:
    """Returns `questions`; InputError if one has no answer and the recipe does not allow this."""
    without = next((question for question in questions if not question.answers), None)
    if without is not None and not recipe.data.unanswerable:
        raise InputError(
            f"{where}: question {without.id!r}: has no answer (SQuAD v2.0), and {recipe.name} answers every question; "
            "train with data.unanswerable=true, as the recipe squad-v2 does"
        )
    return questions


def _source(
    recipe: QuestionsRecipe,
    questions: list[Question],
    tokenizer: Tokenizer,
    window: int,
    seed: int,
    where: Path | None = None,
) -> QuestionSource:
    name = str(where or recipe.data.path or "the questions")
    return QuestionSource(questions, tokenizer, window, recipe.data.stride, seed=seed, where=name)
