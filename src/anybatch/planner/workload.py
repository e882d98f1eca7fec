"""The needs of a run on any hardware: parameters, FLOPs, activations and messages, read from the recipe's model."""

import json
import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from anybatch.accelerators import Precision
from anybatch.engine.parallel import repeated_blocks
from anybatch.errors import InputError
from anybatch.optim import param_groups
from anybatch.optim.muon import MuonAdamW, muon_groups
from anybatch.planner.cluster import Cluster, Family
from anybatch.planner.examples import Examples, Fixed, Law
from anybatch.planner.model_cost import ModelCost, model_cost
from anybatch.recipes import Recipe, from_json
from anybatch.recipes.phases import scaled_phase
from anybatch.recipes.task import Outline
from anybatch.recipes.tasks import outline

# Bytes a parameter of an optimizer, in fp32: what a step reads and writes, each tensor as often as necessary, and what
# is kept from step to step. LAMB reads g, p, m, v and writes m, v, u, then reads p, u and writes p. Muon's share of a
# model keeps less than AdamW's; AdamW's value is used for both.
STEP_BYTES: Mapping[str, int] = {
    "lamb": 40, "lars": 28, "adamw": 28, "adam": 28, "adagrad": 20, "momentum": 20, "nesterov": 20, "muon": 28,
    "layerwise-adamw": 40, "layerwise-muon": 40, "layerwise-sgd": 32,
}  # fmt: skip
STATE_BYTES: Mapping[str, int] = {
    "lamb": 8, "lars": 4, "adamw": 8, "adam": 8, "adagrad": 4, "momentum": 4, "nesterov": 4, "muon": 8,
    "layerwise-adamw": 8, "layerwise-muon": 8, "layerwise-sgd": 4,
}  # fmt: skip
# The largest share of warm-up in the paper's table of untuned LAMB, at 32K; nobody has tried a larger one.
_LARGEST_WARMUP = 1 / 5
_SIZES = {"sequence_length": "sequence", "image_size": "images of"}


@dataclass(frozen=True)
class WorkPhase:
    """A stretch of a run.

    Args:
        title: the user's name for it, such as "sequence 128".
        share: its share of the run's examples.
        batch_ratio: its global batch over the first phase's.
        cost: the cost of one example.
    """

    title: str
    share: float
    batch_ratio: float
    cost: ModelCost


@dataclass(frozen=True)
class Evaluation:
    """`num_examples` are evaluated every `every_examples + every_batches * batch` examples."""

    num_examples: int
    every_examples: float
    every_batches: float = 0.0


@dataclass(frozen=True)
class Workload:
    """A run without batch and hardware, in its precision on this hardware.

    Args:
        parameters, num_tensors: the model's; a tensor is one layer to the optimizer.
        largest_unit: the parameters of the largest part that FSDP gathers at once.
        examples: the examples that the run needs, by global batch.
        batch_size: the run's batch as published or tuned.
        optimizer_flops: the FLOPs of a step's matrix products, as in Muon.
        gradient_bytes: bytes a parameter, as sent between devices.
        epoch_examples: the examples of an epoch of the data, if epochs mean something.
        group_size: the examples of every micro-batch, if the model processes them together; otherwise micro-batches
            are cut as they fit.
        start_s: from the launch to the first step.
        num_checkpoints: the number of checkpoints over the run.
        recipe: the recipe's name, for the command line; None for a published run.
        supposed: in words, the assumptions about what the recipe leaves open.
    """

    name: str
    family: Family
    precision: Precision
    parameters: int
    num_tensors: int
    largest_unit: int
    phases: tuple[WorkPhase, ...]
    optimizer: str
    examples: Examples
    batch_size: int
    optimizer_flops: float = 0.0
    gradient_bytes: int = 4
    epoch_examples: int | None = None
    evaluation: Evaluation | None = None
    group_size: int | None = None
    start_s: float = 60.0
    num_checkpoints: int = 10
    recipe: str | None = None
    supposed: tuple[str, ...] = ()

    @property
    def value_bytes(self) -> int:
        """Returns the bytes of a parameter in computing."""
        return 4 if self.precision in ("fp32", "tf32") else 2

    def with_optimizer(self, name: str) -> "Workload":
        """Returns the same run with another optimizer: its bytes change, its examples do not.

        Raises:
            InputError: the planner does not know the optimizer.
        """
        if name not in STEP_BYTES:
            raise InputError(f"optimizer {name!r}: must be one of {', '.join(STEP_BYTES)}")
        return replace(self, optimizer=name)


def workload_of(recipe: Recipe, cluster: Cluster, precision: str | None = None) -> Workload:
    """Returns the needs of `recipe` on `cluster`; `precision` replaces the recipe's.

    Raises:
        InputError: the recipe's model, data or precision are impossible, or its length is in epochs of text.
    """
    recipe_json = json.dumps(recipe.model_dump(mode="json"))
    plan = _outline(recipe_json)
    model = plan.model
    convolves = any(isinstance(module, nn.modules.conv._ConvNd) for module in model.modules())
    family: Family = "convolution" if convolves else "transformer"
    arithmetic = cluster.arithmetic(precision or recipe.engine.precision, family)
    if recipe.reference.num_examples is None and plan.epoch_examples is None:
        raise InputError("reference.num_epochs: give reference.num_examples for a plan, and set num_epochs to null")
    num_examples = recipe.reference.length(plan.epoch_examples)
    first = recipe.phases[0].batch_size
    sizes = [next((words, getattr(phase, name)) for name, words in _SIZES.items() if hasattr(phase, name))
             for phase in recipe.phases]  # fmt: skip
    phases = tuple(
        WorkPhase(f"{words} {size}", phase.share, phase.batch_size / first, _cost(recipe_json, number, arithmetic))
        for number, (phase, (words, size)) in enumerate(zip(recipe.phases, sizes, strict=True))
    )
    known = recipe.optimizer.name in STEP_BYTES
    own = () if known else (f"a step of {recipe.optimizer.name} costs as much as AdamW's",)
    return Workload(
        name=recipe.name,
        family=family,
        precision=arithmetic,
        parameters=sum(p.numel() for p in model.parameters()),
        num_tensors=len(list(model.parameters())),
        largest_unit=_largest_unit(model),
        phases=phases,
        optimizer=recipe.optimizer.name if known else "adamw",
        examples=Fixed(
            num_examples,
            _largest_batch(recipe, num_examples, plan.epoch_examples, below=1.0),
            "beyond, its warm-up would take the whole run",
            _largest_batch(recipe, num_examples, plan.epoch_examples, below=_LARGEST_WARMUP * (1 + 1e-9)),
        ),
        batch_size=first,
        optimizer_flops=_muon_flops(model) if "muon" in recipe.optimizer.name else 0.0,
        gradient_bytes=2 if recipe.engine.gradient_dtype == "bf16" else 4,
        epoch_examples=plan.epoch_examples,
        evaluation=Evaluation(plan.num_held_out, num_examples / recipe.engine.num_evals),
        group_size=getattr(recipe.model, "batch_norm_group", None),
        num_checkpoints=1 + num_examples // first // recipe.engine.checkpoint_every_steps,
        recipe=recipe.name,
        supposed=(*plan.supposed, *own),
    )


def with_critical_batch(workload: Workload, critical_batch: float, reference_batch: int | None = None) -> Workload:
    """Returns `workload` with examples by E = E_min (1 + B / B_crit), from the examples at its batch.

    Raises:
        InputError: the workload has a fitted curve already, or `critical_batch` is not above 0.
    """
    if not isinstance(workload.examples, Fixed):
        raise InputError(f"{workload.name} has its own curve of examples; leave --critical-batch and --advice out")
    if not critical_batch > 0 or math.isinf(critical_batch):
        raise InputError(f"--critical-batch {critical_batch}: must be a finite number above 0")
    law = Law(workload.examples.num_examples, reference_batch or workload.batch_size, critical_batch)
    return replace(workload, examples=law)


# A model is counted once, whatever changes in the plan.
@lru_cache(maxsize=32)
def _outline(recipe_json: str) -> Outline:
    return outline(from_json(json.loads(recipe_json)))


@lru_cache(maxsize=128)
def _cost(recipe_json: str, number: int, precision: Precision) -> ModelCost:
    """Returns the cost of an example in a phase."""
    recipe, plan = from_json(json.loads(recipe_json)), _outline(recipe_json)
    inputs = partial(plan.inputs, recipe.phases[number])
    return model_cost(plan.model, inputs, precision, fused=recipe.engine.compile is True)


def _largest_batch(recipe: Recipe, num_examples: int, epoch_examples: int | None, below: float) -> int:
    """Returns the largest batch that the recipe's rule allows, with a warm-up below this share of its steps.

    It is at least 1, and at least the recipe's batch if the whole run may warm up.
    """

    first = recipe.phases[0]

    def allowed(batch_size: int) -> bool:
        phases = (replace(first, batch_size=batch_size), *recipe.phases[1:])
        try:
            scaled = scaled_phase(recipe.model_copy(update={"phases": phases}), 0, epoch_examples or 1)
        except InputError:
            return False
        return scaled.warmup_ratio <= below

    largest = 1 + bisect_left(range(2, num_examples + 1), True, key=lambda batch_size: not allowed(batch_size))
    return max(largest, first.batch_size) if below == 1 else largest


def _largest_unit(model: nn.Module) -> int:
    """Returns the largest part that FSDP gathers: a repeated block, or everything outside blocks."""
    blocks = [sum(p.numel() for p in block.parameters()) for block in repeated_blocks(model)]
    return max([*blocks, sum(p.numel() for p in model.parameters()) - sum(blocks)])


def _muon_flops(model: nn.Module) -> float:
    """Returns the FLOPs of the matrix products in a step of Muon."""
    optimizer = MuonAdamW(muon_groups(model, param_groups(model, weight_decay=0.01)))
    for p in model.parameters():
        p.grad = torch.empty_like(p)
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    model.zero_grad(set_to_none=True)
    return float(counter.get_total_flops())
