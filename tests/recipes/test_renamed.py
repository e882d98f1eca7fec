"""What was written when a field had another name is read; who sets the old name is told the new one."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from anybatch.engine.job import Scores
from anybatch.errors import InputError, Stopped
from anybatch.files import write_json
from anybatch.recipes import Recipe, change, find_recipe, from_json, train_recipe
from anybatch.recipes.renamed import RENAMED
from anybatch.runs import Run

# One old value of each renamed field, with a recipe that has the field, and what it is today.
OLD = {
    "data.padded_with": ("cifar10-davidnet", "reflection", "reflect"),
    "data.smallest_area": ("resnet50-paper", 0.25, (0.25, 1.0)),
    "data.centre": ("resnet50-paper", 0.75, 0.75),
    "data.hole": ("cifar10-davidnet", 8, 8),
    "data.short_probability": ("bert-large-paper", 0.1, 0.1),
    "model.zero_init": ("resnet50-paper", True, True),
}


def with_old_words(recipe: Recipe) -> dict[str, Any]:
    """`recipe` as its recipe.json was before any field was renamed."""
    values = recipe.model_dump(mode="json")
    for old, (new, _) in RENAMED.items():
        part, name = new.split(".")
        if name in values[part]:
            value = values[part].pop(name)
            values[part][old.split(".")[1]] = value[0] if name == "scale" else value
    return values


@pytest.mark.parametrize("old", RENAMED)
def test_a_recipe_of_before_is_read(old: str) -> None:
    name, before, now = OLD[old]
    recipe = find_recipe(name)
    (part, field), (_, today) = old.split("."), RENAMED[old][0].split(".")
    values = recipe.model_dump(mode="json")
    del values[part][today]
    values[part][field] = before
    assert getattr(getattr(from_json(values), part), today) == now


@pytest.mark.parametrize("old", RENAMED)
def test_setting_an_old_name_names_the_new_one(old: str) -> None:
    with pytest.raises(InputError, match=f"--set {old}: the field is called {RENAMED[old][0]} now"):
        change(find_recipe(OLD[old][0]), [f"{old}=1"])


def test_a_run_of_before_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    settings = ["data.cutout=2", "reference.num_examples=96", "engine.num_evals=1"]
    recipe = change(find_recipe("digits-lenet"), ["reference.num_epochs=null", *settings])
    before, run = with_old_words(recipe), Run(tmp_path / "run")
    assert {"hole", "padded_with"} <= before["data"].keys()
    run.path.mkdir()
    write_json(run.recipe_file, before)
    with pytest.raises(Stopped):
        train_recipe(change(recipe, ["engine.stop_after_steps=1"]), run.path, resume=True)
    (state,) = run.checkpoints.glob("step-*/state.json")
    # As it was computed then.
    del before["engine"], before["data"]["path"]
    expected = hashlib.sha256(json.dumps(before, sort_keys=True).encode()).hexdigest()
    assert json.loads(state.read_text())["inputs"]["recipe"] == expected
    again: Scores = train_recipe(recipe, run.path, resume=True)["final"]
    assert again == train_recipe(recipe, tmp_path / "new")["final"]
    assert [event["step"] for event in run.metrics("train")] == [1, 2, 3]
