"""The demo's grid: nothing in it is tuned but the references; and what it makes of its runs."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from demo_seeds import sentences

from anybatch.progress import SilentProgress
from anybatch.recipes import Recipe, change
from anybatch.recipes.phases import scaled_phase
from anybatch.study import demo
from anybatch.study.demo import cells, declared, rows


def test_every_cell_follows_from_its_reference(tmp_path: Path) -> None:
    grid = cells(tmp_path, seed=3)
    assert [int(title.partition("\u00d7")[2].rstrip(")")) for title, *_ in grid] == [1, 1, 4, 4, 16, 16, 64, 64]
    for (_, recipe, _), factor in zip(grid, (1, 1, 4, 4, 16, 16, 64, 64), strict=True):
        (phase,) = recipe.phases
        assert recipe.seed == 3
        assert recipe.optimizer.lr is None
        assert recipe.optimizer.warmup_ratio is None
        assert phase.batch_size == factor * recipe.reference.batch_size
        scaled = scaled_phase(recipe, 0, 10_000)
        assert math.isclose(scaled.lr, recipe.reference.lr * math.sqrt(factor))
        assert scaled.warmup_steps == 64
        assert scaled.num_steps * phase.batch_size == recipe.reference.num_examples


def test_the_optimizers_differ_in_optimizer_and_rate_alone(tmp_path: Path) -> None:
    lamb, adamw = (recipe.model_dump() for _, recipe, _ in cells(tmp_path, seed=0)[:2])
    for recipe in (lamb, adamw):
        del recipe["name"], recipe["optimizer"]["name"], recipe["reference"]["lr"]
    assert lamb == adamw


def test_folders_are_told_apart(tmp_path: Path) -> None:
    grid = cells(tmp_path, seed=0)
    assert len({folder for *_, folder in grid}) == len(grid)


def test_the_grid_is_declared_once_as_an_untuned_study() -> None:
    study = declared(seeds=(0, 1))
    assert study.protocol == "untuned"
    assert len(study.trials) == 2 * len(cells(Path(), seed=0))
    assert {trial.part for trial in study.trials} == {"reported"}


def test_a_row_a_run_says_how_much_of_the_learning_was_kept(tmp_path: Path) -> None:
    losses: dict[tuple[str, int], float | None] = {
        ("lamb", 1): 1.5, ("lamb", 4): 1.53, ("lamb", 16): 1.575, ("lamb", 64): 3.5,
        ("adamw", 1): 1.4, ("adamw", 4): 1.4, ("adamw", 16): None, ("adamw", 64): 2.2,
    }  # fmt: skip
    grid = cells(tmp_path, seed=7)
    for _, recipe, folder in grid:
        _finish(recipe, folder, losses[recipe.optimizer.name, recipe.phases[0].batch_size // 2])
    found = {(row["optimizer"], row["factor"]): row for row in rows([folder for *_, folder in grid])}
    assert [row["kept"] for (name, _), row in found.items() if name == "lamb"] == pytest.approx(
        [1.0, 0.98, 0.95, -1 / 3]
    )
    assert [row["kept"] for (name, _), row in found.items() if name == "adamw"] == [
        1.0, 1.0, None, pytest.approx(0.5),
    ]  # fmt: skip
    assert found["lamb", 16] | {"batch": 32, "seed": 7, "loss": 1.575} == found["lamb", 16]


@pytest.mark.slow
def test_a_demo_runs_to_its_page_and_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole demo on a model and a text that take seconds; the runs are in a process of their own."""
    from anybatch.data.prepare import prepare

    settings = ["model.hidden_size=8", "reference.num_examples=512", "data.num_held_out=32", "reference.lr=0.02"]
    entrants = tuple(replace(each, recipe=change(each.recipe, settings)) for each in declared().entrants)
    tiny = replace(declared((0,)), entrants=entrants, batch_sizes=(2, 8))
    texts = [f"Document {number} begins here. It has a second sentence, and a third. " * 4 for number in range(60)]
    monkeypatch.setattr(demo, "declared", lambda seeds: tiny)
    monkeypatch.setattr(demo, "prepare_builtin_text", lambda out, kind: prepare(lambda: texts, out, tokenizer=kind))
    out = tmp_path / "demo"
    folders = demo.run_demo(out, 0, SilentProgress(), num_workers=1)
    found = json.loads((out / "findings.json").read_text())
    assert [(row["optimizer"], row["factor"]) for row in found] == [
        ("lamb", 1),
        ("adamw", 1),
        ("lamb", 4),
        ("adamw", 4),
    ]
    assert found[0]["kept"] == 1.0
    for small, large in ((found[0], found[2]), (found[1], found[3])):
        gains = [row["context_free_loss"] - row["loss"] for row in (large, small)]
        # Nothing is kept of a reference that learned nothing.
        assert large["kept"] == (pytest.approx(gains[0] / gains[1]) if gains[1] > 0 else None)
    assert all((folder / "sample.json").is_file() for folder in folders)
    before = [(folder / "result.json").stat().st_mtime_ns for folder in folders]
    assert demo.run_demo(out, 0, SilentProgress(), num_workers=1) == folders
    assert [(folder / "result.json").stat().st_mtime_ns for folder in folders] == before


def test_what_was_measured_before_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = {("lamb", 1): 1.0, ("lamb", 4): 0.99, ("lamb", 16): 0.97}
    found = [
        {"optimizer": name, "factor": factor, "kept": kept - seed / 100 * (factor > 1)}
        for seed in (0, 1) for (name, factor), kept in shares.items()
    ]  # fmt: skip
    about = {"processor": "a processor", "started": "2026-01-02T03:04"}
    monkeypatch.setattr(demo, "files", lambda package: tmp_path)
    assert demo.measured_before() is None
    for seeds in ((0, 1), (0,)):
        measured = {"seeds": seeds, "environment": about, "rows": found[: 3 * len(seeds)]}
        written = {**measured, "sentences": sentences(measured)}
        (tmp_path / "measured.json").write_text(json.dumps(written))
        quoted = demo.measured_before()
        assert quoted is not None
        first, second = (sentence.replace("\u202f", " ") for sentence in quoted["sentences"])
        assert first == f"The same demo with seed{'s 0, 1' if len(seeds) == 2 else ' 0'} on a processor, 2026-01-02:"
        at_4, at_16 = (
            ("98.5 % (98.0 % to 99.0 %)", "96.5 % (96.0 % to 97.0 %)") if len(seeds) == 2 else ("99.0 %", "97.0 %")
        )
        assert second == f"LAMB kept {at_4} at ×4, {at_16} at ×16 of what its own reference learned."


def test_the_sentences_that_come_with_the_package_are_those_of_its_numbers() -> None:
    measured = demo.measured_before()
    assert measured is not None
    assert measured["sentences"] == sentences(measured)


def _finish(recipe: Recipe, folder: Path, loss: float | None) -> None:
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(json.dumps(recipe.model_dump(mode="json")))
    result = {
        "optimizer": recipe.optimizer.name, "global_batch_size": recipe.phases[0].batch_size, "seed": 7,
        "context_free_loss": 3.0, "num_steps": 1, "lr": 0.1, "wall_s": 1.0,
        "final": {"loss": loss, "lm_accuracy": 0.5},
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
