"""Every option says what it does, where it is declared, and `anybatch recipes NAME` prints that."""

import json
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
from typer.testing import CliRunner

from anybatch.cli import app
from anybatch.recipes import RECIPES, change, find_recipe
from anybatch.recipes.options import field_lines, options_of


def parts(value: Any) -> list[Any]:
    """A recipe's dataclasses, at any depth."""
    inside = [getattr(value, field.name) for field in fields(value)] if is_dataclass(value) else []
    return [value, *(part for each in inside if is_dataclass(each) for part in parts(each))]


@pytest.mark.parametrize("name", RECIPES)
def test_every_option_has_one_line_that_ends_with_a_full_stop(name: str) -> None:
    recipe = find_recipe(name)
    tops = [recipe.optimizer, recipe.reference, *recipe.phases, recipe.engine, recipe.data, recipe.model]
    for part in (each for top in tops for each in parts(top)):
        lines = field_lines(type(part))
        assert lines.keys() >= {field.name for field in fields(part)}
        assert all(line[0].isupper() or line[0] in "{n" for line in lines.values())
        assert all(line.endswith(".") for line in lines.values())
    assert {*type(recipe).model_fields} - {"task"} == field_lines(type(recipe)).keys()


@pytest.mark.parametrize("name", RECIPES)
def test_every_option_can_be_set_by_its_name(name: str) -> None:
    recipe = find_recipe(name)
    found = options_of(recipe)
    settable = {name: option["value"] for name, option in found.items() if name != "ramp"}
    assert change(recipe, [f"{name}={json.dumps(value)}" for name, value in settable.items()]) == recipe


def test_the_command_prints_name_value_and_line() -> None:
    ask, network = CliRunner(), find_recipe("resnet50-paper")
    listed = ask.invoke(app, ["recipes", network.name]).stdout.splitlines()
    (row,) = (line for line in listed if line.startswith("engine.fsdp.reshard_after_forward "))
    assert row.split(None, 2)[1:] == ["true", field_lines(type(network.engine.fsdp))["reshard_after_forward"]]
    values = json.loads(ask.invoke(app, ["recipes", network.name, "--json"]).stdout)
    assert values["data.scale"]["value"] == [0.08, 1.0]
    assert "smallest" in values["data.scale"]["line"]
    assert "nearest: bert-tiny" in str(ask.invoke(app, ["recipes", "bert-tinny"]).exception)
