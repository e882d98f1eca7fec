"""What a study says of seeds that never arrive, of runs that learn nothing, and of who is told apart from whom."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.run_folders import _write_run as write_run

from anybatch.cli.advice_text import study_text
from anybatch.comparison.findings import find
from anybatch.comparison.statistics import fit_critical_batch, mean_interval
from anybatch.engine import Progress
from anybatch.errors import InputError
from anybatch.progress import SilentProgress
from anybatch.recipes import Recipe, change, find_recipe
from anybatch.report import write_study
from anybatch.study import Entrant, Outcome, Study, Trial
from anybatch.study.command import check, finish_study, plan
from anybatch.study.execution import run_folder
from anybatch.study.results import compare
from anybatch.study.shipped import paper_bert
from anybatch.study.trial_queue import Result

# Final losses by seed, from an untrained model's 4.0; the target is 2.
ENDS = {
    ("near", 16): (1.0, 1.1, 1.2),
    ("near", 64): (1.0, 1.1, 1.2),
    ("lucky", 16): (1.3, 1.0, 1.25),
    ("lucky", 64): (1.9, 2.4, 2.3),
    ("still", 16): (3.99, 3.98, 4.01),
    ("still", 64): (3.99, 3.98, 4.01),
}


def run(study: Study, trial: Trial, recipe: Recipe, out: Path, progress: Progress) -> Outcome:
    """A straight line from 4 to the planted end, over 6,400 examples."""
    end = ENDS[trial.cell][trial.seed]
    steps = 6400 // trial.batch_size
    curve = tuple((t, t * trial.batch_size, 4 + (end - 4) * t / steps) for t in range(0, steps + 1, steps // 10))
    return Outcome(curve, False, steps)


def study() -> Study:
    demo = find_recipe("bert-demo")
    names = dict.fromkeys(name for name, _ in ENDS)
    return Study("planted", "Who arrives?", tuple(Entrant(name, demo) for name in names), (16, 64), target=2.0, run=run)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("findings")
    compared, table = finish_study(study, out, SilentProgress(), storage=None, num_workers=1, heartbeat_s=20)
    assert write_study(compared, out)[0].name == "index.html"
    # Strict readers of JSON know no infinity.
    json.dumps(table, allow_nan=False)
    return table


def test_a_batch_that_some_seeds_miss_has_no_mean_and_is_in_no_fit(found: dict[str, Any]) -> None:
    cells = {(cell["entrant"], cell["batch_size"]): cell for cell in found["cells"]}
    assert cells["lucky", 64]["steps"] is None
    assert list(cells["lucky", 64]["steps_to_target"]) == ["0"]
    assert cells["lucky", 16]["steps"]["mean"] > 0
    lucky = next(row for row in found["scaling"] if row["entrant"] == "lucky")
    assert lucky["batches_fitted"] == [16]
    # What arrives late or never bounds the critical batch: without it, the quick batches alone would make it too large.
    assert lucky["fit"] is None
    assert lucky["bound"]["b_crit"]["mean"] == pytest.approx(109, abs=1)
    assert any(
        "when their runs ended, the critical batch would be 109; the real one is smaller" in one
        for one in found["findings"]
    )
    assert any(
        "At batch 64 1 of 3 seeds reached it within the 6,400 examples of a run" in one for one in found["findings"]
    )


def test_runs_that_learn_nothing_are_told_from_those_that_finish(found: dict[str, Any]) -> None:
    states = {trial["key"]: trial["state"] for trial in found["trials"]}
    assert {states[key] for key in states if key.startswith("still")} == {"learned nothing"}
    assert {states[key] for key in states if not key.startswith("still")} == {"finished"}
    assert any("6 of 18 trials, 6 of them reported, ended within 2 %" in one for one in found["findings"])
    assert any("better than still" in one and "3 of 3 of its runs learned nothing" in one for one in found["findings"])


def test_who_is_told_apart_is_said_beyond_the_winner(found: dict[str, Any]) -> None:
    # At 16 near and lucky cannot be told apart; at 64 all three can.
    assert found["headline"].endswith(
        "the data support that it is better than every other at 1 of 2. "
        "(Each of 6 comparisons has its own 95 % interval.)"
    )
    assert "The data do not distinguish it from lucky" in found["findings"][0]
    assert "Of the others, lucky is better than still." in found["findings"][0]
    assert headline_without(("still", 64)).endswith(
        "; the data support at no batch that it is better than every other, only that near is better than still at "
        "batch 16 and that lucky is better than still at batch 16 and that near is better than lucky at batch 64. "
        "(Each of 4 comparisons has its own 95 % interval.)"
    )


def headline_without(cell: tuple[str, int]) -> str:
    """The headline where one contender never ran at one batch, so that nobody is known to be better than it there."""
    made = study()
    results = {
        trial.key: Result(run(made, trial, trial.recipe({}), Path(), SilentProgress()), {}, "")
        for trial in made.trials
        if trial.cell != cell
    }
    return find(compare(made, results)).headline


def test_a_flat_line_has_no_critical_batch_and_says_so_of_two_batches(found: dict[str, Any]) -> None:
    near = next(one for one in found["findings"] if one.startswith("near takes"))
    assert "no more at the larger of batches 16, 64: its critical batch" in near
    assert "cannot show whether the curve has that form" in near
    fit = fit_critical_batch([16, 16, 64, 64], [100.0, 101.0, 90.0, 91.0])
    assert fit is not None
    assert fit.b_crit.mean == math.inf


def test_the_headline_names_who_never_ended_and_single_seeds(tmp_path: Path) -> None:
    made = study()
    lost = [trial for trial in made.trials if trial.entrant.name == "lucky"]
    results = {
        trial.key: Result(
            None if trial in lost else run(made, trial, trial.recipe({}), Path(), SilentProgress()), {}, "x"
        )
        for trial in made.trials
    }
    assert "No run of lucky ended with a number." in find(compare(made, results)).headline
    single = replace(made, seeds=(0,))
    said = find(compare(single, {key: results[key] for key in results if key.endswith("-s0")})).headline
    assert said.startswith("near's loss stayed within 5\u202f% of its own batch-16 run at every larger batch tried")
    assert "near has the best loss at every batch, in one run each, which says nothing about chance." in said


def test_what_would_make_every_trial_fail_is_refused_beforehand(tmp_path: Path) -> None:
    digits = find_recipe("digits-lenet")
    short = ["reference.num_epochs=null", "reference.num_examples=1024", "reference.warmup_ratio=0.1"]
    for recipe, metric, message in (
        (change(digits, short), "loss", "one: phases.0: batch_size=1024 has a warm-up ratio of"),
        (change(digits, ["optimizer.name=adamwx"]), "loss", "optimizer.name = 'adamwx': must be one of lamb"),
        (digits, "accuracy", "metric = 'accuracy': digits-lenet measures loss, label, label_top5"),
        (change(digits, [f"data.path={tmp_path}/none"]), "loss", "none: no such file or folder"),
        (find_recipe("bert-large-paper"), "loss", "data.path is not set, and bert-large-paper is for data of your own"),
    ):
        with pytest.raises(InputError, match=message):
            check(Study("s", "?", (Entrant("one", recipe),), (32, 1024), metric=metric))


def test_an_interval_ends_where_the_metric_does() -> None:
    assert mean_interval([0.01, 0.2, 0.02]).low < 0  # type: ignore[operator]
    cut = mean_interval([0.01, 0.2, 0.02], 0.0, 0.25)
    assert (cut.low, cut.high) == (0.0, 0.25)


def test_a_plan_shows_rates_warm_up_and_steps_of_the_paper() -> None:
    planned = plan(paper_bert())
    last = next(row for row in planned["runs"] if (row["optimizer"], row["batch"]) == ("LAMB", 32_768))
    assert (last["rate"], last["warmup_steps"], last["steps"]) == (0.005, 3_125, 15_625)
    text = study_text(planned)
    assert "LAMB  32,768      0.005" in text
    assert "Every run sees 512,000,000 examples" in text
    # Epochs of data that are not there yet have no number of steps.
    recipe = change(find_recipe("digits-lenet"), ["data.builtin=null", "data.path=somewhere"])
    unknown = plan(Study("later", "?", (Entrant("LAMB", recipe),), (32,)))
    assert unknown["runs"][0]["steps"] is None
    assert "known once the data are" in study_text(unknown)


def test_a_study_shows_the_course_of_the_runs_whose_folders_are_at_hand(tmp_path: Path) -> None:
    digits = find_recipe("digits-lenet")
    made = Study("digits", "?", (Entrant("LAMB", digits), Entrant("AdamW", digits)), (32, 128), seeds=(0,))
    results = {
        trial.key: Result(Outcome(((0, 0, 2.3), (9, 9 * trial.batch_size, 0.5)), False, 9), {}) for trial in made.trials
    }
    here = made.trials[0]
    write_run(run_folder(tmp_path, here), "lamb", here.batch_size)
    without, there = compare(made, results), compare(made, results, tmp_path)
    first, *others = there.rows
    assert (first.score, first.name) == (0.5, here.key), "what the storage says counts"
    assert first.trains
    assert first.noise
    assert first.environment["cores"] == 2
    assert not any(row.trains for row in [*others, *without.rows])
    page = write_study(replace(there, environment=first.environment | {"started": "2026-01-02"}), tmp_path / "page")[0]
    sections = re.findall(r'<section id="([^"]+)"', page.read_text(encoding="utf-8"))
    assert {"setting", "batch", "curves", "rates", "noise", "table-results", "table-trials", "made"} <= set(sections)
