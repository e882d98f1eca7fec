"""A recipe's model without content: every recipe has one, of the size that its run has."""

import pytest
import torch

from anybatch.recipes import RECIPES, change, find_recipe
from anybatch.recipes.tasks import build, outline
from anybatch.runs import Run


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_an_outline_without_content(name: str) -> None:
    recipe = find_recipe(name)
    found = outline(recipe)
    assert all(p.is_meta for p in found.model.parameters())
    given = found.inputs(recipe.phases[-1], 3)
    assert all(value.is_meta for value in given.values())
    assert found.num_held_out > 0


@pytest.mark.parametrize("name", ["digits-lenet", "bert-demo"])
def test_the_outline_is_the_model_that_is_built(name: str, tmp_path) -> None:
    recipe = find_recipe(name)
    job = build(recipe, Run(tmp_path))
    found = outline(recipe)
    assert [p.shape for p in found.model.parameters()] == [p.shape for p in job.model.parameters()]
    given, real = found.inputs(recipe.phases[0], 4), job.phases[0].examples.read(0, 4).inputs
    assert given.keys() == real.keys()
    assert {name: value.dtype for name, value in given.items()} == {name: value.dtype for name, value in real.items()}


def test_known_sizes() -> None:
    sizes = {name: sum(p.numel() for p in outline(find_recipe(name)).model.parameters())
             for name in ("bert-large-paper", "bert-base", "gpt2-small", "resnet50-paper")}  # fmt: skip
    assert sizes == {
        "bert-large-paper": 336_226_108,
        "bert-base": 110_106_428,
        "gpt2-small": 124_439_808,
        "resnet50-paper": 25_557_032,
    }


def test_what_the_recipe_leaves_open_is_said() -> None:
    assert outline(find_recipe("squad")).supposed[0] == "the model of bert-base, for model.path is not set"
    assert "1,281,167 blank images" in outline(find_recipe("resnet50-paper")).supposed[0]
    assert outline(find_recipe("bert-tiny")).supposed == ()


def test_settings_change_the_outline() -> None:
    recipe = change(find_recipe("bert-tiny"), ["model.num_layers=3", "phases.0.sequence_length=64"])
    found = outline(recipe)
    assert found.inputs(recipe.phases[0], 2)["input_ids"].shape == torch.Size([2, 64])
    assert len(list(found.model.parameters())) == 46 + 16
