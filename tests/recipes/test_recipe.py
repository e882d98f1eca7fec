"""A field is changed by name; a wrong name or value is one line that helps."""

import re

import pytest
import torch

from anybatch.engine import Execution
from anybatch.errors import InputError
from anybatch.recipes import RECIPES, change, find_recipe, from_json, with_batch_size
from anybatch.recipes.optimizers import build_optimizer
from anybatch.recipes.recipe import OptimizerSettings, TextPhaseSettings
from anybatch.recipes.task import fresh


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_json(name: str) -> None:
    recipe = find_recipe(name)
    assert recipe.name == name
    assert from_json(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_says_what_it_is(name: str) -> None:
    assert len((RECIPES[name].__doc__ or "").split()) > 8


def test_fields_are_changed_by_dotted_names() -> None:
    changed = change(
        find_recipe("bert-tiny"),
        [
            "optimizer.lr=2e-3",
            "seed=7",
            "phases.0.batch_size=64",
            "data.path=some/folder",
            "max_grad_norm=null",
            "optimizer.options.betas=[0.9, 0.98]",
        ],
    )
    assert changed.optimizer.lr == 2e-3
    assert changed.seed == 7
    assert changed.phases[0].batch_size == 64
    assert changed.data.path == "some/folder"
    assert changed.max_grad_norm is None
    assert changed.optimizer.options == {"betas": [0.9, 0.98]}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optimizer.learning_rate=1", r"optimizer\.learning_rate: .*no such field; nearest: .*optimizer\.lr"),
        ("sed=1", "nearest: seed"),
        ("phases.3.batch_size=8", r"nearest: .*phases\.0\.batch_size"),
        ("optimizer.lr", "expected FIELD=VALUE"),
        ("optimizer.lr=fast", r"optimizer\.lr = 'fast': .*number"),
        ("optimizer.lr=-1", r"optimizer\.lr = -1: .*greater than or equal to 0"),
        ("phases.0.batch_size=0", r"phases\.0\.batch_size = 0: .*greater than or equal to 1"),
        ("reference.num_epochs=2", r"reference.*: give one of num_examples and num_epochs"),
        ("model.num_layers=many", r"model\.num_layers = 'many'"),
        ("model={}", r"model\.hidden_size"),
        ("engine.parallel=fast", r"engine\.parallel = 'fast': .*'fsdp'"),
        ("engine.keep_last=0", r"engine\.keep_last = 0: .*greater than or equal to 1"),
        ("engine.hang_timeout_s=0", r"engine\.hang_timeout_s = 0: .*greater than 0"),
        ("engine.fsdp.param_dtype=fp64", r"engine\.fsdp\.param_dtype = 'fp64'"),
    ],
)
def test_wrong_changes_are_explained(assignment: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        change(find_recipe("bert-tiny"), [assignment])
    assert "\n" not in str(caught.value)


def test_none_is_a_word_of_some_fields_and_null_for_others() -> None:
    assert change(find_recipe("bert-tiny"), ["engine.parallel=none"]).engine.parallel == "none"
    assert change(find_recipe("resnet50-paper"), ["data.crop=none"]).data.crop == "none"
    assert change(find_recipe("bert-tiny"), ["data.path=x", "data.path=none"]).data.path is None


def test_a_recipe_checks_its_engine_options_where_it_is_made() -> None:
    recipe = find_recipe("bert-tiny")
    with pytest.raises(ValueError, match=r"keep_last"):
        type(recipe)(**{**dict(recipe), "engine": Execution(keep_last=0)})


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(InputError, match="nearest: bert-tiny"):
        find_recipe("bert-tinny")


def test_the_batch_size_scales_later_phases_in_proportion() -> None:
    recipe = find_recipe("bert-tiny").model_copy(
        update={
            "phases": (
                TextPhaseSettings(batch_size=64, sequence_length=32, share=0.9),
                TextPhaseSettings(batch_size=32, sequence_length=128, share=0.1),
            )
        }
    )
    assert [phase.batch_size for phase in with_batch_size(recipe, 256).phases] == [256, 128]
    with pytest.raises(InputError, match="batch size 0"):
        with_batch_size(recipe, 0)


def test_the_reference_scales_rate_and_warm_up_and_keeps_the_examples() -> None:
    reference = find_recipe("bert-demo").reference
    small, large = (reference.over(10_000).at(reference.batch_size * factor) for factor in (1, 4))
    assert small.lr == reference.lr
    assert large.lr == pytest.approx(2 * small.lr)
    assert large.warmup_ratio == pytest.approx(4 * small.warmup_ratio)
    assert small.num_steps == 4 * large.num_steps


def test_blocks_cut_adapted_parameters_into_layers_of_their_own() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 4))
    optimizer = build_optimizer(
        model, OptimizerSettings(name="lamb", blocks={"0.weight": 3}), {"lr": 0.1, "weight_decay": 0.01}
    )
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    assert [(group["blocks"], len(group["params"])) for group in optimizer.param_groups] == [(1, 1), (3, 1), (1, 2)]
    assert {name for name in optimizer.trust_ratios() if "0.weight" in name} >= {"0.weight[0]", "0.weight[2]"}
    for settings, message in (
        (OptimizerSettings(name="lamb", blocks={"2.weight": 3}), "no adapted parameter's name ends with '2.weight'"),
        (OptimizerSettings(name="lamb", blocks={"0.bias": 3}), "no adapted parameter's name ends with '0.bias'"),
        (OptimizerSettings(name="adamw", blocks={"0.weight": 3}), "adamw has no layers to cut"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            build_optimizer(model, settings, {"lr": 0.1, "weight_decay": 0.01})


@pytest.mark.parametrize(
    ("recipe", "setting", "bound"),
    [
        ("digits-lenet", "phases.0.image_size=100000", "2048"),
        ("digits-lenet", "phases.0.batch_size=999999999999", "16777216"),
        ("cifar10-resnet20", "data.padding=100000", "4096"),
        ("cifar10-resnet20", "model.width=1000000", "4096"),
        ("resnet50-paper", "data.source_examples=10000000000000", "100000000"),
        ("bert-tiny", "model.hidden_size=100000000", "65536"),
        ("bert-tiny", "model.num_layers=100000000", "1024"),
        ("bert-tiny", "phases.0.sequence_length=100000000", "131072"),
        ("digits-lenet", "engine.hang_timeout_s=1e30", "100000000"),
        ("digits-lenet", "seed=" + "9" * 30, "18446744073709551616"),
    ],
)
def test_a_setting_of_absurd_size_is_refused_with_its_bound(recipe: str, setting: str, bound: str) -> None:
    name = re.escape(setting.split("=")[0])
    with pytest.raises(InputError, match=rf"{name} = \S+: Input should be less than (or equal to )?{bound}"):
        change(find_recipe(recipe), [setting])


def test_a_model_larger_than_the_memory_is_refused_before_it_is_made() -> None:
    made = []

    def make() -> torch.nn.Module:
        model = torch.nn.Linear(2**21, 2**21)
        made.append(model.weight.device.type)
        return model

    with pytest.raises(InputError, match=r"model: its parameters take 16,384\.0 GiB, more than half"):
        fresh(make)
    assert made == ["meta"]
