"""The numbers of the image recipes are those of their sources, to the last digit."""

import math
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from anybatch.cli.drawing import preview_text
from anybatch.data.batch import Batch
from anybatch.engine import Phase
from anybatch.errors import InputError
from anybatch.models.classifier import ClassifierSettings, image_classifier
from anybatch.optim import LAMB, LARS
from anybatch.recipes import RECIPES, ImageRecipe, change, find_recipe, preview_recipe, with_batch_size
from anybatch.recipes.optimizers import OPTIMIZERS, build_optimizer
from anybatch.recipes.phases import plan_phases
from anybatch.recipes.recipe import OptimizerSettings
from anybatch.recipes.resnet50 import IMAGENET_EXAMPLES


class Numbers:
    """As many examples as there are."""

    def __init__(self, num_examples: int) -> None:
        self.num_examples = num_examples

    def batch(self, epochs: np.ndarray, examples: np.ndarray) -> Batch:
        raise NotImplementedError


def plan(name: str, batch_size: int | None = None, num_examples: int = IMAGENET_EXAMPLES) -> tuple[ImageRecipe, Phase]:
    recipe = find_recipe(name)
    if batch_size is not None:
        recipe = with_batch_size(recipe, batch_size)
    assert isinstance(recipe, ImageRecipe)
    (phase,) = plan_phases(recipe, lambda _: Numbers(num_examples), group_size=recipe.model.batch_norm_group)
    return recipe, phase


@pytest.mark.parametrize(
    ("batch_size", "lr", "warmup_epochs"),
    [
        (512, 4 / (2**3 * 100), 0.3125),
        (1024, 4 / (2**2.5 * 100), 0.625),
        (2048, 4 / (2**2 * 100), 1.25),
        (4096, 4 / (2**1.5 * 100), 2.5),
        (8192, 4 / (2 * 100), 5),
        (16384, 4 / (2**0.5 * 100), 10),
        (32768, 4 / 100, 20),
    ],
)
def test_every_row_of_the_papers_table_follows_from_the_batch(batch_size: int, lr: float, warmup_epochs: float) -> None:
    recipe, phase = plan("resnet50-paper", batch_size)
    assert phase.lr == pytest.approx(lr, rel=1e-15)
    assert phase.num_steps == math.ceil(90 * IMAGENET_EXAMPLES / batch_size)
    assert phase.warmup_steps == round(warmup_epochs / 90 * phase.num_steps)
    assert recipe.optimizer.name == "lamb"
    assert phase.hyperparameters == {"lr": phase.lr, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01}


def test_the_authors_own_settings() -> None:
    recipe, phase = plan("resnet50-author")
    assert (phase.global_batch_size, phase.lr, phase.num_steps, phase.warmup_steps) == (32768, 0.04, 3519, 782)
    assert phase.hyperparameters["weight_decay"] == 1.5
    assert recipe.optimizer.options["bias_correction"] is False
    assert recipe.model.label_smoothing == 0.1
    assert recipe.max_grad_norm == 1.0
    # Continuous at the join, and linear.
    assert phase.schedule(781) == phase.schedule(782) == 1.0
    assert phase.schedule(2150) == pytest.approx((3519 - 2150) / (3519 - 782))
    model = image_classifier(ClassifierSettings("resnet50", 3, 32, 3), 0)
    optimizer = build_optimizer(model, recipe.optimizer, phase.hyperparameters)
    decayed, excluded = optimizer.param_groups
    assert (decayed["weight_decay"], decayed["adapt"]) == (1.5, True)
    assert (excluded["weight_decay"], excluded["adapt"]) == (0.0, False)
    norms = {p for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    assert set(excluded["params"]) == norms, "BatchNorm alone is left out, the bias of the last layer is not"
    assert set(decayed["params"]) == set(model.parameters()) - norms


@pytest.mark.parametrize(
    ("name", "batch_size", "lr", "warmup_epochs", "momentum", "weight_decay"),
    [
        ("resnet50-mlperf-lars", 32_768, 21.2, 16, 0.94, 2.5e-5),
        ("resnet50-mlperf-lars-64k", 65_536, 24.699, 31, 0.951807, 1e-4),
    ],
)
def test_mlperfs_rows(
    name: str, batch_size: int, lr: float, warmup_epochs: float, momentum: float, weight_decay: float
) -> None:
    recipe, phase = plan(name)
    assert phase.global_batch_size == batch_size
    assert phase.lr == lr
    epochs = recipe.reference.num_epochs
    assert epochs is not None
    assert phase.warmup_steps == round(warmup_epochs / epochs * phase.num_steps)
    model = image_classifier(ClassifierSettings("lenet", 1, 8, 2), 0)
    optimizer = build_optimizer(model, recipe.optimizer, phase.hyperparameters)
    assert optimizer.param_groups[0]["weight_decay"] == weight_decay
    assert isinstance(optimizer, LARS)
    assert optimizer.param_groups[0]["momentum"] == momentum
    assert optimizer.param_groups[0]["form"] == "lars-2017"


def test_the_answer_to_lars_and_lamb() -> None:
    recipe, phase = plan("resnet50-nesterov")
    assert (phase.global_batch_size, phase.num_steps) == (32_768, 2512)
    model = image_classifier(ClassifierSettings("lenet", 1, 8, 2), 0)
    optimizer = build_optimizer(model, recipe.optimizer, phase.hyperparameters)
    assert optimizer.param_groups[0]["momentum"] == 0.97603
    assert optimizer.param_groups[0]["nesterov"] is True


@pytest.mark.parametrize(
    ("name", "num_examples", "batch_size", "num_steps"),
    [
        ("cifar10-davidnet", 50_000, 512, math.ceil(24 * 50_000 / 512)),
        ("mnist-lenet", 60_000, 1024, math.ceil(30 * 60_000 / 1024)),
        ("cifar10-resnet20", 50_000, 128, 64_000),
    ],
)
def test_small_recipes_take_the_sources_steps(name: str, num_examples: int, batch_size: int, num_steps: int) -> None:
    _, phase = plan(name, num_examples=num_examples)
    assert (phase.global_batch_size, phase.num_steps) == (batch_size, num_steps)


def test_a_dry_run_needs_no_data() -> None:
    found = preview_recipe(
        change(find_recipe("mnist-lenet"), ["phases.0.batch_size=2048", "data.source_examples=6000"])
    )
    (phase,) = found["phases"]
    assert (phase["batch_size"], phase["image_size"], phase["num_steps"]) == (2048, 28, math.ceil(30 * 6000 / 2048))
    assert phase["lr"] == pytest.approx(0.01 * math.sqrt(2))
    assert "image size" in preview_text(found)


def test_data_below_one_step_of_the_reference_name_its_batch() -> None:
    with pytest.raises(
        InputError, match=r"phases.0: num_examples=\d+ is below batch_size=1024, one step of the reference"
    ):
        plan("mnist-lenet", 16, 20)


def test_untuned_scaling_reaches_16k_on_cifar10() -> None:
    for name in ("cifar10-davidnet", "cifar10-resnet20"):
        _, phase = plan(name, 16_384, num_examples=50_000)
        assert phase.warmup_steps < phase.num_steps


@pytest.mark.parametrize("name", [name for name in RECIPES if isinstance(RECIPES[name](), ImageRecipe)])
def test_every_image_recipe_says_what_it_does_not_know(name: str) -> None:
    recipe = find_recipe(name)
    assert recipe.inferred or "best of a grid" in (RECIPES[name].__doc__ or "")
    assert isinstance(recipe, ImageRecipe)
    assert (recipe.model.batch_norm_group is None) == (recipe.model.architecture == "lenet")


@pytest.mark.parametrize("name", ["adagrad", "adam", "adamw", "momentum", "nesterov", "lars", "lamb"])
def test_the_optimizers_of_the_appendix_are_choices(name: str) -> None:
    assert name in OPTIMIZERS
    recipe = change(find_recipe("cifar10-resnet20"), [f"optimizer.name={name}", "optimizer.lr=0.1"])
    model = image_classifier(ClassifierSettings("lenet", 1, 8, 2), 0)
    optimizer = build_optimizer(model, recipe.optimizer, {"lr": 0.1, "weight_decay": 0.01})
    assert isinstance(optimizer, LAMB) == (name == "lamb")


def test_biases_are_excluded_unless_asked_for() -> None:
    model = image_classifier(ClassifierSettings("lenet", 1, 8, 2), 0)
    settings = {"lr": 0.1, "weight_decay": 0.01}
    (whole,) = build_optimizer(model, OptimizerSettings(name="lamb", decay_biases=True), settings).param_groups
    assert len(whole["params"]) == 10
    groups = build_optimizer(model, OptimizerSettings(name="lamb"), settings).param_groups
    assert [len(group["params"]) for group in groups] == [5, 5]


def test_a_group_of_examples_is_part_of_the_phase() -> None:
    _, phase = plan("cifar10-resnet20", num_examples=50_000)
    assert phase.group_size == 128
    assert replace(phase, group_size=None).num_examples == phase.num_examples


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("data.mean=[0.5]", r"^data\.mean = \(0\.5,\), std = .*: must have one value each"),
        ("data.crop=centre", r"data\.crop = 'centre'"),
        ("model.batch_norm_group=1", r"model\.batch_norm_group = 1"),
        ("phases.0.sequence_length=32", "no such field"),
    ],
)
def test_wrong_changes_are_explained(assignment: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        change(find_recipe("cifar10-resnet20"), [assignment])
