"""Runs of a left-to-right language model, on the same shards as BERT."""

import math
from functools import partial

from tokenizers import Tokenizer
from torch import nn

from anybatch.data import vocabulary
from anybatch.data.batch import Batch
from anybatch.data.causal import CausalSource
from anybatch.engine import Evaluation, Job, evaluate
from anybatch.engine.devices import local_device
from anybatch.engine.job import Scores
from anybatch.files import write_json
from anybatch.models.gpt import CausalModel, GptSettings, causal_flops, causal_model
from anybatch.recipes.job import fresh, job_of
from anybatch.recipes.phases import plan_phases
from anybatch.recipes.recipe import CausalRecipe
from anybatch.recipes.run_text import Text, described, open_text, vocabulary_size
from anybatch.recipes.streaming import held_out_batches
from anybatch.recipes.task import Outline, Task, numbers
from anybatch.runs import Run

_START_TOKENS = 31
_SAMPLE_TOKENS = 160


def build(recipe: CausalRecipe, run: Run) -> Job:
    """Builds the job of a causal recipe; without a `data.path`, prepares the built-in text in the run folder.

    Raises:
        InputError: data, vocabulary, model or batch size do not fit each other.
    """
    text = open_text(recipe, run)
    settings = GptSettings(vocabulary_size=text.tokenizer.get_vocab_size(), **vars(recipe.model))
    phases = plan_phases(
        recipe,
        lambda phase: CausalSource(text.train, text.tokenizer, phase.sequence_length),
        lambda phase: causal_flops(settings, phase.sequence_length),
    )
    batches = _held_out(recipe, text)
    return job_of(
        recipe,
        run,
        fresh(lambda: causal_model(settings, recipe.seed)),
        phases,
        held_out=batches,
        inputs=text.fingerprints(),
        score=lambda finished: _judged(finished, batches, text.tokenizer, recipe, run),
        tokenizer=text.tokenizer,
        context_free_loss=text.train.frequency_loss(
            [batch.inputs["input_ids"].numpy()[:, 1:].reshape(-1) for batch in batches],
            separator=vocabulary.special_ids(text.tokenizer)["[SEP]"],
        ),
    )


def score(recipe: CausalRecipe, run: Run) -> Scores:
    """Returns held-out loss, accuracy and perplexity of the run's saved model."""
    model = CausalModel.load(run.sound_model()).to(local_device())
    return _scores(evaluate(model, _held_out(recipe, open_text(recipe, run))))


def source(recipe: CausalRecipe, run: Run) -> CausalSource:
    text = open_text(recipe, run)
    return CausalSource(text.train, text.tokenizer, recipe.phases[0].sequence_length)


def outline(recipe: CausalRecipe) -> Outline:
    settings = GptSettings(vocabulary_size=vocabulary_size(recipe.data), **vars(recipe.model))
    model = fresh(lambda: causal_model(settings, recipe.seed))
    return Outline(
        model, lambda phase, count: {"input_ids": numbers(count, phase.sequence_length)}, recipe.data.num_held_out
    )


def _held_out(recipe: CausalRecipe, text: Text) -> list[Batch]:
    source = CausalSource(text.held_out, text.tokenizer, recipe.phases[-1].sequence_length)
    return held_out_batches(source, recipe.data.num_held_out, recipe.engine.evaluation_batch_size)


def _judged(finished: nn.Module, batches: list[Batch], tokenizer: Tokenizer, recipe: CausalRecipe, run: Run) -> Scores:
    """Returns the scores; writes RUN/sample.json: {"start": held-out text, "text": the model's continuation}."""
    assert isinstance(finished, CausalModel)
    window = recipe.phases[-1].sequence_length - 1
    start = batches[0].inputs["input_ids"][0, : min(window, _START_TOKENS)].tolist()
    allowed = vocabulary.ordinary_ids(tokenizer).tolist()
    text = finished.continued(start, _SAMPLE_TOKENS, window, allowed, recipe.seed)
    words = {"start": tokenizer.decode(start), "text": tokenizer.decode([*start, *text])}
    write_json(run.sample_file, {**words, "text": words["text"].removeprefix(words["start"])})
    return _scores(evaluate(finished, batches))


def _scores(evaluation: Evaluation) -> Scores:
    """Returns the scores; `perplexity` is exp of a token's mean loss."""
    # exp overflows beyond 709; so bad a model has no useful perplexity.
    perplexity = math.exp(evaluation.loss) if evaluation.loss < 700 else math.inf
    return {"loss": evaluation.loss, "perplexity": perplexity, "lm_accuracy": evaluation.accuracy["lm"]}


TASK = Task(
    build=build,
    score=score,
    source=source,
    outline=outline,
    describe=partial(described, "GPT-2"),
    accuracies={"lm": "next-token accuracy"},
)
