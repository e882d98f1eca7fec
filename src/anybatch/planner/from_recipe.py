"""A recipe as a workload: its shape gives the FLOPs, the bytes and the memory."""

import math
from dataclasses import replace
from pathlib import Path

from anybatch.data import prepare
from anybatch.errors import InputError
from anybatch.planner.accelerators import Precision
from anybatch.planner.examples import Fixed, Law
from anybatch.planner.named import KERNELS_A_LAYER, NAMED
from anybatch.planner.workload import OPTIMIZER_BYTES, Evaluation, Workload, bert_parameters, bert_phase
from anybatch.recipes import RECIPES, PretrainingRecipe, Recipe, change, find_recipe
from anybatch.recipes.builtin_text import VOCABULARY_SIZES

# Parameter tensors of a BERT layer, and of embeddings, pooler and heads.
_TENSORS_A_LAYER, _OTHER_TENSORS = 16, 14
# The largest share of its steps that warms up in the paper's table of untuned LAMB, at 32K; beyond, nobody has tried.
_LARGEST_WARMUP = 1 / 5


def find_workload(name: str, assignments: list[str]) -> Workload:
    """The workload called `name`, or that of the recipe called so, with fields set as `anybatch train --set` does.

    Raises:
        InputError: neither; or fields of a workload that has no recipe.
    """
    if name in NAMED:
        if assignments:
            raise InputError(f"--set {assignments[0]}: {name} is a published run, not a recipe; its fields are fixed")
        return NAMED[name]()
    if name not in RECIPES:
        import difflib

        known = [*NAMED, *RECIPES]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
        raise InputError(f"neither a workload nor a recipe is called {name!r}; nearest: {', '.join(near)}")
    return workload_of(change(find_recipe(name), assignments))


def workload_of(recipe: Recipe) -> Workload:
    """What `recipe` asks of hardware.

    Raises:
        InputError: the planner knows no model for it, or its optimizer's bytes.
    """
    if not isinstance(recipe, PretrainingRecipe):
        raise InputError(f"{recipe.name}: plans are made for pretraining recipes and for {', '.join(NAMED)}")
    if recipe.optimizer.name not in OPTIMIZER_BYTES:
        raise InputError(f"optimizer.name = {recipe.optimizer.name!r}: must be one of {', '.join(OPTIMIZER_BYTES)}")
    model, first = recipe.model, recipe.phases[0]
    vocabulary_size = _vocabulary_size(recipe)
    precision: Precision = getattr(recipe.engine, "precision", "fp32")
    phases = tuple(
        bert_phase(
            f"sequence {phase.sequence_length}",
            vocabulary_size=vocabulary_size,
            hidden_size=model.hidden_size,
            num_layers=model.num_layers,
            sequence_length=phase.sequence_length,
            num_masked=recipe.data.masking_rate * phase.sequence_length,
            value_bytes=2 if precision == "bf16" else 4,
            share=phase.share,
            batch_ratio=phase.batch_size / first.batch_size,
        )
        for phase in recipe.phases
    )
    num_examples = _num_examples(recipe)
    return Workload(
        name=recipe.name,
        family="transformer",
        precision=precision,
        parameters=bert_parameters(vocabulary_size, model.hidden_size, model.num_layers, model.max_positions),
        largest_layer=max(vocabulary_size * model.hidden_size, 12 * model.hidden_size**2),
        num_tensors=_TENSORS_A_LAYER * model.num_layers + _OTHER_TENSORS,
        num_kernels=KERNELS_A_LAYER * model.num_layers,
        phases=phases,
        optimizer=recipe.optimizer.name,  # type: ignore[arg-type]
        examples=Fixed(
            num_examples,
            _largest_batch(recipe, num_examples),
            "beyond, its warm-up would take the whole run",
            _advised_batch(recipe),
        ),
        batch_size=first.batch_size,
        evaluation=Evaluation(recipe.data.num_held_out, num_examples / recipe.engine.num_evals),
        num_checkpoints=1 + num_examples // first.batch_size // recipe.engine.checkpoint_every_steps,
        recipe=recipe.name,
    )


def with_critical_batch(workload: Workload, critical_batch: float, reference_batch: int | None = None) -> Workload:
    """`workload` whose examples follow E = E_min (1 + B / B_crit) from those of its own batch.

    Raises:
        InputError: the workload has a fitted curve already, or `critical_batch` is not above 0.
    """
    if not isinstance(workload.examples, Fixed):
        raise InputError(f"{workload.name} has its own curve of examples; leave --critical-batch and --advice out")
    if not critical_batch > 0 or math.isinf(critical_batch):
        raise InputError(f"--critical-batch {critical_batch}: must be a finite number above 0")
    law = Law(workload.examples.num_examples, reference_batch or workload.batch_size, critical_batch)
    return replace(workload, examples=law)


def _num_examples(recipe: PretrainingRecipe) -> int:
    if recipe.reference.num_examples is None:
        raise InputError("reference.num_epochs: give reference.num_examples for a plan, and set num_epochs to null")
    return recipe.reference.num_examples


def _largest_batch(recipe: PretrainingRecipe, num_examples: int) -> int:
    """What the rule allows: warm-up must leave steps for training, and a batch is no more than the run."""
    ratio = recipe.reference.warmup_ratio
    by_warmup = math.ceil(recipe.reference.batch_size / ratio) - 1 if ratio else num_examples
    return max(recipe.phases[0].batch_size, min(by_warmup, num_examples))


def _advised_batch(recipe: PretrainingRecipe) -> int | None:
    """The batch up to which no more than a fifth of the steps warms up."""
    ratio = recipe.reference.warmup_ratio
    return math.floor(recipe.reference.batch_size * _LARGEST_WARMUP / ratio * (1 + 1e-9)) if ratio else None


def _vocabulary_size(recipe: PretrainingRecipe) -> int:
    if recipe.data.path is None:
        return recipe.data.source_vocabulary or VOCABULARY_SIZES[recipe.data.tokenizer or "wordpiece"]
    return prepare.tokenizer_of(Path(recipe.data.path)).get_vocab_size()
