"""The page shows what an image model takes for what, and believes nothing that a file says."""

import json
from pathlib import Path
from typing import Any

import pytest

from anybatch.report import write_report

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="


def write_run(folder: Path, classes: list[str], confusion: list[Any], worst: list[Any], batch: int = 32) -> None:
    folder.mkdir(parents=True)
    recipe = {
        "name": "digits-lenet",
        "task": "images",
        "optimizer": {"name": "lamb"},
        "phases": [{"batch_size": batch}],
    }
    result = {
        "recipe": "digits-lenet", "task": "images", "optimizer": "lamb", "global_batch_size": batch, "seed": 0,
        "reference": {"batch_size": 32, "lr": 0.01}, "num_steps": 3, "final": {"loss": 0.2, "top1": 0.875, "top5": 1.0},
    }  # fmt: skip
    (folder / "recipe.json").write_text(json.dumps(recipe))
    (folder / "result.json").write_text(json.dumps(result))
    evaluation = {
        "event": "eval",
        "step": 3,
        "examples": 96,
        "loss": 0.2,
        "accuracy": {"label": 0.875, "label_top5": 1},
    }
    (folder / "metrics.jsonl").write_text(json.dumps(evaluation) + "\n")
    values = {"classes": classes, "confusion": confusion, "worst": worst}
    (folder / "classification.json").write_text(json.dumps(values))


def page_of(folder: Path) -> str:
    write_report([folder], folder / "page.html")
    return (folder / "page.html").read_text()


def test_confusions_and_worst_images_are_shown(tmp_path: Path) -> None:
    item = {"name": "cats/1.jpg", "label": 0, "predicted": 1, "loss": 3.0, "probability": 0.05, "png": PIXEL}
    write_run(tmp_path / "run", ["cat", "dog"], [[0, 0, 4], [0, 1, 1], [1, 1, 3]], [item])
    page = page_of(tmp_path)
    assert "1 of 8 images wrong" in page
    assert f'src="data:image/png;base64,{PIXEL}"' in page
    assert "the model says dog" in page
    assert "top-1" in page
    assert "87.5" in page
    assert "asked word" not in page
    assert "asked-word" not in page


def test_many_classes_become_a_list_of_the_most_frequent_mistakes(tmp_path: Path) -> None:
    names = [f"class {n}" for n in range(50)]
    write_run(tmp_path / "run", names, [[n, n, 9] for n in range(50)] + [[3, 7, 5], [4, 8, 2]], [])
    page = page_of(tmp_path)
    assert page.index("class 3 taken for class 7: 5") < page.index("class 4 taken for class 8: 2")
    assert 'class="confusion"' not in page


@pytest.mark.parametrize("damage", [{"classes": 3}, {"confusion": None}, {"worst": "x"}])
def test_a_file_that_makes_no_sense_is_left_out(tmp_path: Path, damage: dict[str, Any]) -> None:
    write_run(tmp_path / "run", ["a"], [[0, 0, 1]], [])
    file = tmp_path / "run" / "classification.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **damage}))
    assert "taken for what" not in page_of(tmp_path)


def test_nothing_from_a_file_becomes_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    worst = [
        {"name": evil, "label": 0, "predicted": 1, "png": PIXEL},
        {"name": "right, if unsure", "label": 0, "predicted": 0, "png": PIXEL},
        {"name": "x", "label": 0, "predicted": 1, "png": '"><script>alert(2)</script>'},
        {"name": "x", "label": 7, "predicted": 0, "png": PIXEL},
        {"name": "x", "label": [], "predicted": 0, "png": PIXEL},
        "no object",
    ]
    write_run(tmp_path / "run", [evil, "b"], [[0, 0, 2], [0, 9, 1], ["a", 0, 1], [0]], worst)
    page = page_of(tmp_path)
    assert "<script" not in page
    assert page.count("<img") == 1


def test_the_smallest_and_the_largest_batch_are_shown(tmp_path: Path) -> None:
    for batch in (32, 64, 128):
        write_run(tmp_path / str(batch), ["a", "b"], [[0, 1, batch]], [], batch)
    page = page_of(tmp_path)
    assert [f"{batch} of {batch} images" in page for batch in (32, 64, 128)] == [True, False, True]
