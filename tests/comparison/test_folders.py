"""Run folders as they may lie on a disk: nested, unfinished, damaged, hostile."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from anybatch.comparison.families import build
from anybatch.comparison.folders import find_runs, load
from anybatch.errors import InputError
from anybatch.numbers import finite
from anybatch.report.questions import by_cell, children

Write = Callable[..., Path]


def test_runs_are_found_at_any_depth_once_and_in_the_order_of_their_numbers(write_run: Write, tmp_path: Path) -> None:
    for name in ("lamb-256", "lamb-32", "deep/er/lamb-8"):
        write_run(tmp_path / name)
    (tmp_path / ".half.tmp").mkdir()
    (tmp_path / ".half.tmp" / "recipe.json").write_text("{}")
    found = find_runs([tmp_path, tmp_path / "lamb-32"])
    assert [path.name for path in found] == ["lamb-8", "lamb-32", "lamb-256"]
    assert find_runs([tmp_path / "lamb-32"]) == [tmp_path / "lamb-32"]


def test_nothing_found_is_an_input_error(tmp_path: Path) -> None:
    for paths, said in (([tmp_path], "no run found"), ([tmp_path / "none"], "no such folder"), ([], "no run found")):
        with pytest.raises(InputError, match=said) as caught:
            find_runs(paths)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["recipe.json", "result.json", "environment.json", "status.json"])
@pytest.mark.parametrize("content", ["[1]", "{"])
def test_damaged_files_are_named(write_run: Write, tmp_path: Path, file: str, content: str) -> None:
    run = write_run(tmp_path / "run")
    (run / file).write_text(content)
    with pytest.raises(InputError, match=file):
        load([run])


def test_an_unfinished_run_is_read_from_its_recipe_and_metrics(write_run: Write, tmp_path: Path) -> None:
    (run,) = load([write_run(tmp_path / "run", "adamw", 32, finished=False)])
    assert (run.state, run.optimizer, run.batch, run.score, run.diverged) == ("stopped", "adamw", 32, None, False)
    assert run.evals
    assert run.reference is not None
    assert run.num_steps is not None
    assert run.num_steps <= 450


def test_a_run_killed_before_its_first_step(write_run: Write, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", finished=False)
    for name in ("metrics.jsonl", "environment.json", "status.json"):
        (run / name).unlink()
    (record,) = load([run])
    assert (record.state, record.evals, record.num_steps) == ("unfinished", [], None)


def test_numbers_that_are_not_finite_become_none(write_run: Write, tmp_path: Path) -> None:
    (run,) = load([write_run(tmp_path / "run", loss=math.nan)])
    assert run.diverged
    assert run.evals[0].loss == 9.0
    assert run.evals[-1].loss is None
    assert [finite(value) for value in (math.inf, True, "3", None, 10**400, 2)] == [None] * 5 + [2.0]


def test_names_lose_what_does_not_print(write_run: Write, tmp_path: Path) -> None:
    (run,) = load([write_run(tmp_path / "run", recipe="a\nb\u202e\ud800" + "x" * 500)])
    assert run.recipe_name.startswith("a b  xxx")
    assert len(run.recipe_name) == 160


@pytest.mark.parametrize(
    "parent", ["../../pretraining/lamb-8", "pretraining/lamb-8", "../../pretraining/lamb-8/model", "elsewhere/lamb-8"]
)
def test_fine_tuning_finds_its_parent(write_run: Write, write_questions: Write, tmp_path: Path, parent: str) -> None:
    write_run(tmp_path / "pretraining" / "lamb-8")
    write_questions(tmp_path / "questions" / "q", parent, 12.0, 5.0)
    records = load([tmp_path])
    found = by_cell(build(records), children(records))
    assert [(one.batch, one.f1, one.exact_match) for one in found] == [(8, 12.0, 5.0)]


def test_fine_tuning_without_its_parent_has_no_batch(write_questions: Write, tmp_path: Path) -> None:
    write_questions(tmp_path / "q", "../gone", 12.0, 5.0)
    assert children(load([tmp_path])) == {}


def test_the_scores_of_several_fine_tunings_are_averaged(
    write_run: Write, write_questions: Write, tmp_path: Path
) -> None:
    write_run(tmp_path / "lamb-8")
    write_questions(tmp_path / "q1", "../lamb-8", 12.0, 5.0)
    write_questions(tmp_path / "q2", "../lamb-8", math.nan, 7.0)
    records = load([tmp_path])
    (score,) = by_cell(build(records), children(records))
    assert (score.f1, score.exact_match) == (12.0, 6.0)


def test_a_last_line_cut_short_is_left_out(write_run: Write, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    before = load([run])[0].evals
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"event": "eval", "step": 9})[:-4])
    assert load([run])[0].evals == before


def test_layers_that_are_not_adapted_are_left_out(write_run: Write, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "lamb-8", samples=2)
    with open(folder / "metrics.jsonl", "a") as metrics:
        for step, ratio in ((2990, 1.0), (3000, 0.5)):
            ratios = {"layer.0.output.dense.bias": 1.0, "pooler.dense.weight": ratio}
            metrics.write(
                json.dumps({"event": "trust_ratios", "step": step, "examples": 8 * step, "ratios": ratios}) + "\n"
            )
    (run,) = load([folder])
    names = {name for _, ratios in run.ratios for name in ratios}
    assert "layer.0.output.dense.bias" not in names
    assert dict(run.ratios)[2990] == {"pooler.dense.weight": 1.0}
