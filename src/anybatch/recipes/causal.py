"""Builds a run of a left-to-right language model on the shards that BERT is trained on."""

import math
from pathlib import Path

from tokenizers import Tokenizer
from torch import nn

from anybatch.data import prepare, vocabulary
from anybatch.data.batch import Batch
from anybatch.data.causal import CausalSource
from anybatch.data.frequencies import causal_frequency_loss
from anybatch.data.shards import open_shards
from anybatch.engine import Evaluation, Job, evaluate
from anybatch.engine.devices import local_device
from anybatch.engine.job import Scores
from anybatch.files import sha256, write_json
from anybatch.models import CausalModel, GptSettings, causal_flops, causal_model, save_tokenizer
from anybatch.recipes.job import fresh, job_of
from anybatch.recipes.phases import fingerprints, plan_phases, summarise
from anybatch.recipes.recipe import CausalRecipe
from anybatch.recipes.run_text import data_folder, open_text
from anybatch.recipes.streaming import held_out_batches
from anybatch.runs import Run

_START_TOKENS = 31
_SAMPLE_TOKENS = 160


def build(recipe: CausalRecipe, run: Run) -> Job:
    """The job of a causal recipe; without a `data.path`, the built-in text is prepared in the run folder.

    Raises:
        InputError: data, vocabulary, model or batch size do not fit each other.
    """
    folder, tokenizer, shards = open_text(recipe, run)
    settings = GptSettings(vocabulary_size=tokenizer.get_vocab_size(), **vars(recipe.model))
    phases = plan_phases(
        recipe,
        lambda phase: CausalSource(shards, tokenizer, phase.sequence_length),
        lambda phase: causal_flops(settings, phase.sequence_length),
    )
    batches = _held_out(recipe, folder, tokenizer)
    model = fresh(lambda: causal_model(settings, recipe.seed))

    def export(finished: nn.Module, target: Path) -> None:
        assert isinstance(finished, CausalModel)
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
        ),
        score=lambda finished: _judged(finished, batches, tokenizer, recipe, run),
        export=export,
        summary={
            **summarise(recipe, phases, model),
            "context_free_loss": causal_frequency_loss(shards, tokenizer, batches),
        },
    )


def score_finished(recipe: CausalRecipe, run: Run) -> Scores:
    """Held-out loss, accuracy and perplexity of the run's saved model."""
    folder = data_folder(recipe, run)
    tokenizer = prepare.tokenizer_of(folder)
    return _scores(
        evaluate(CausalModel.load(run.sound_model()).to(local_device()), _held_out(recipe, folder, tokenizer))
    )


def _held_out(recipe: CausalRecipe, folder: Path, tokenizer: Tokenizer) -> list[Batch]:
    source = CausalSource(open_shards(folder / prepare.HELD_OUT), tokenizer, recipe.phases[-1].sequence_length)
    return held_out_batches(source, recipe.data.num_held_out, recipe.engine.evaluation_batch_size)


def _judged(finished: nn.Module, batches: list[Batch], tokenizer: Tokenizer, recipe: CausalRecipe, run: Run) -> Scores:
    """The scores; writes RUN/sample.json: {"start": held-out text, "text": how the model goes on from it}."""
    assert isinstance(finished, CausalModel)
    window = recipe.phases[-1].sequence_length - 1
    start = batches[0].inputs["input_ids"][0, : min(window, _START_TOKENS)].tolist()
    allowed = vocabulary.ordinary_ids(tokenizer).tolist()
    text = finished.continued(start, _SAMPLE_TOKENS, window, allowed, recipe.seed)
    words = {"start": tokenizer.decode(start), "text": tokenizer.decode([*start, *text])}
    write_json(run.sample_file, {**words, "text": words["text"].removeprefix(words["start"])})
    return _scores(evaluate(finished, batches))


def _scores(evaluation: Evaluation) -> Scores:
    """`perplexity` is exp of the mean loss of a token."""
    # exp overflows beyond 709; a model so far off has no perplexity to speak of.
    perplexity = math.exp(evaluation.loss) if evaluation.loss < 700 else math.inf
    return {"loss": evaluation.loss, "perplexity": perplexity, "lm_accuracy": evaluation.accuracy["lm"]}
