"""Builds a fine-tuning run on extractive questions, and scores its answers."""

import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from anybatch.data import vocabulary
from anybatch.data.prepare import TOKENIZER
from anybatch.data.spans import QuestionSource
from anybatch.data.squad import Question, load_builtin, read_questions, split_by_article
from anybatch.engine import Job, evaluate
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
from anybatch.recipes import pretraining
from anybatch.recipes.bert import bert_demo
from anybatch.recipes.bert_large import bert_base
from anybatch.recipes.job import job_of
from anybatch.recipes.phases import plan_phases
from anybatch.recipes.recipe import QuestionsRecipe
from anybatch.recipes.streaming import held_out_batches
from anybatch.recipes.task import Outline, Task, numbers, tokens
from anybatch.runs import Run, sound_model

PREDICTIONS = "predictions.json"
N_BEST = "nbest_predictions.json"
NULL_ODDS = "null_odds.json"


@dataclass(frozen=True)
class Pretrained:
    """The source of a fine-tuning run's encoder; `run` is set if it is a run folder."""

    model: Path
    run: Path | None


def build(recipe: QuestionsRecipe, run: Run) -> Job:
    """Builds the job of a fine-tuning recipe.

    Raises:
        InputError: no model, or one that does not fit the recipe's window; bad questions; a batch larger than the
            data.
    """
    pretrained = find_pretrained(recipe)
    tokenizer = vocabulary.load(vocabulary.in_folder(pretrained.model))
    training, held_out = split_by_article(open_questions(recipe), recipe.data.held_out_every)
    phases = plan_phases(recipe, lambda phase: _source(recipe, training, tokenizer, phase.sequence_length, recipe.seed))
    window = recipe.phases[-1].sequence_length
    held_out_source = _source(recipe, held_out, tokenizer, window, seed=0)
    batches = held_out_batches(held_out_source, held_out_source.num_examples, recipe.engine.evaluation_batch_size)
    model = question_answering_model(pretrained.model, recipe.seed)
    if tokenizer.get_vocab_size() > model.vocabulary_size:
        raise InputError(
            f"{pretrained.model}: its tokenizer.json has {tokenizer.get_vocab_size()} tokens, its model "
            f"{model.vocabulary_size}; they do not belong together"
        )
    if (longest := max(phase.sequence_length for phase in recipe.phases)) > model.max_positions:
        raise InputError(
            f"a phase's sequence_length = {longest} is above the {model.max_positions} positions of {pretrained.model}"
        )

    def score_answers(finished: nn.Module) -> Scores:
        assert isinstance(finished, QuestionAnsweringModel)
        answers = _chosen(predict(finished, held_out_source, recipe), recipe)
        return {**_scores(answers, held_out), "loss": evaluate(finished, batches).loss}

    return job_of(
        recipe,
        run,
        model,
        phases,
        held_out=batches,
        inputs={
            "vocabulary": vocabulary.fingerprint(tokenizer),
            "data": _fingerprint(training),
            "pretrained model": weights_fingerprint(pretrained.model),
        },
        score=score_answers,
        tokenizer=tokenizer,
        parent=None if pretrained.run is None else os.path.relpath(pretrained.run, run.path),
    )


def answer(recipe: QuestionsRecipe, run: Run, squad_file: Path | None, null_threshold: float | None) -> Scores:
    """Returns exact match and F1 of the run's saved model on its held-out questions, or on those in `squad_file`.

    For `squad_file` it writes RUN/predictions.json, the answers, id to text, as the official script reads them, and
    RUN/nbest_predictions.json, the best few with their probabilities. If questions may have no answer,
    RUN/null_odds.json holds how much better no answer scores; this is compared with `null_threshold`, or with the
    recipe's threshold.
    """
    if null_threshold is not None:
        if not math.isfinite(null_threshold):
            raise InputError(f"--null-threshold {null_threshold}: must be a finite number")
        if not recipe.data.unanswerable:
            raise InputError(
                f"{run.path}: answers every question, so that a null threshold has no meaning; train it with "
                "data.unanswerable=true"
            )
        recipe = recipe.model_copy(update={"data": replace(recipe.data, null_threshold=null_threshold)})
    folder = run.sound_model()
    tokenizer = vocabulary.load(folder / TOKENIZER)
    if squad_file is None:
        questions = split_by_article(open_questions(recipe), recipe.data.held_out_every)[1]
    else:
        questions = _fitting(read_questions(squad_file), recipe, str(squad_file))
    source = _source(recipe, questions, tokenizer, recipe.phases[-1].sequence_length, seed=0, where=squad_file)
    model = question_answering_model(folder).to(local_device())
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


def find_pretrained(recipe: QuestionsRecipe) -> Pretrained:
    """Finds the model from which the run starts; InputError if `model.path` holds none."""
    if recipe.model.path is None:
        raise InputError("model.path is not set: name a pretrained run, --set model.path=RUN")
    path = Path(recipe.model.path)
    run = Run(path)
    if run.recipe_file.is_file():
        return Pretrained(run.sound_model(), path)
    if not (path / "config.json").is_file():
        raise InputError(
            f"{path}: neither a run folder nor a Hugging Face model folder (no recipe.json, no config.json)"
        )
    return Pretrained(sound_model(path), None)


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


def _fingerprint(asked: list[Question]) -> str:
    # The rules of scoring change nothing that is learned.
    values = [{name: value for name, value in asdict(each).items() if name != "of_v2"} for each in asked]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


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


def source(recipe: QuestionsRecipe, run: Run) -> QuestionSource:
    tokenizer = vocabulary.load(vocabulary.in_folder(find_pretrained(recipe).model))
    training, _ = split_by_article(open_questions(recipe), recipe.data.held_out_every)
    return _source(recipe, training, tokenizer, recipe.phases[0].sequence_length, recipe.seed)


def outline(recipe: QuestionsRecipe) -> Outline:
    training, held_out = split_by_article(open_questions(recipe), recipe.data.held_out_every)
    supposed = ["one window a question"]  # A long passage is cut into several; to count them takes the vocabulary.
    if recipe.model.path is None:
        encoder = bert_demo() if recipe.name == "squad-demo" else bert_base()
        pretrained: Any = pretraining.outline(encoder).model
        config = pretrained.bert.config
        supposed.insert(0, f"the model of {encoder.name}, for model.path is not set")
    else:
        config = read_encoder_config(find_pretrained(recipe).model)

    def inputs(phase: Any, count: int) -> dict[str, Tensor]:
        return {**tokens(phase, count), "start_positions": numbers(count), "end_positions": numbers(count)}

    return Outline(untrained_question_answering_model(config), inputs, len(held_out), len(training), tuple(supposed))


TASK = Task(
    build=build,
    score=lambda recipe, run: answer(recipe, run, None, None),
    source=source,
    outline=outline,
    describe=lambda recipe: (
        f"The encoder of {recipe.model.path}",
        recipe.data.path or "the questions that come with the package",
    ),
    accuracies={"span": "accuracy of answers"},
    answer=answer,
)
