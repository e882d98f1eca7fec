"""Builds a run of a left-to-right language model on the shards that BERT is trained on."""

import math
from pathlib import Path

from tokenizers import Tokenizer
from torch import nn

from anybatch.data import prepare, vocabulary
from anybatch.data.batch import Batch
from anybatch.data.causal import CausalSource
from anybatch.data.shards import open_shards
from anybatch.engine import Evaluation, Job, evaluate
from anybatch.engine.job import Scores
from anybatch.errors import InputError
from anybatch.files import sha256
from anybatch.models import CausalModel, GptSettings, causal_flops, causal_model, save_tokenizer
from anybatch.recipes.builtin_text import prepare_builtin_text
from anybatch.recipes.optimizers import build_optimizer
from anybatch.recipes.phases import execution, fingerprints, held_out_batches, plan_phases, summarise
from anybatch.recipes.recipe import (
    CausalRecipe,
)
from anybatch.runs import Run


def build(recipe: CausalRecipe, run: Run) -> Job:
    """The job of a causal recipe; without a `data.path`, the built-in text is prepared in the run folder.

    Raises:
        InputError: data, vocabulary, model or batch size do not fit each other.
    """
    folder = _data_folder(recipe, run)
    if recipe.data.path is None and not folder.exists():
        prepare_builtin_text(folder)
    tokenizer = vocabulary.load(folder / prepare.TOKENIZER)
    longest = max(phase.sequence_length for phase in recipe.phases)
    if longest > recipe.model.max_positions:
        raise InputError(
            f"a phase's sequence_length = {longest} is above model.max_positions = {recipe.model.max_positions}"
        )
    shards = open_shards(folder / prepare.TRAIN)
    settings = GptSettings(vocabulary_size=tokenizer.get_vocab_size(), **recipe.model.model_dump())
    phases = plan_phases(
        recipe,
        lambda phase: CausalSource(shards, tokenizer, phase.sequence_length),
        lambda phase: causal_flops(settings, phase.sequence_length),
    )
    batches = _held_out(recipe, folder, tokenizer)
    try:
        model = causal_model(settings, recipe.seed)
    # torch says with a RuntimeError that there is no room for a model.
    except (ValueError, RuntimeError) as error:
        raise InputError(f"model: {' '.join(str(error).split())}") from None

    def export(finished: nn.Module, target: Path) -> None:
        assert isinstance(finished, CausalModel)
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
        summary=summarise(recipe, phases, model),
    )


def score_finished(recipe: CausalRecipe, run: Run) -> Scores:
    """Held-out loss, accuracy and perplexity of the run's saved model."""
    folder = _data_folder(recipe, run)
    tokenizer = vocabulary.load(folder / prepare.TOKENIZER)
    return _scores(evaluate(CausalModel.load(run.model), _held_out(recipe, folder, tokenizer)))


def _data_folder(recipe: CausalRecipe, run: Run) -> Path:
    return run.path / "data" if recipe.data.path is None else Path(recipe.data.path)


def _held_out(recipe: CausalRecipe, folder: Path, tokenizer: Tokenizer) -> list[Batch]:
    source = CausalSource(open_shards(folder / prepare.HELD_OUT), tokenizer, recipe.phases[-1].sequence_length)
    return held_out_batches(source, recipe.data.num_held_out, recipe.engine.evaluation_batch_size)


def _scores(evaluation: Evaluation) -> Scores:
    """`perplexity` is exp of the mean loss of a token."""
    # exp overflows beyond 709; a model so far off has no perplexity to speak of.
    perplexity = math.exp(evaluation.loss) if evaluation.loss < 700 else math.inf
    return {"loss": evaluation.loss, "perplexity": perplexity, "lm_accuracy": evaluation.accuracy["lm"]}
