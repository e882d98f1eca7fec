"""The critical batch of a small run, by branches of it."""

import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from anybatch.cli.advice_text import branches_text
from anybatch.errors import InputError, Stopped
from anybatch.progress import SilentProgress
from anybatch.recipes import Recipe, change, find_recipe, train_recipe
from anybatch.recipes.change import differences
from anybatch.runs import Run
from anybatch.study import branching
from anybatch.study.branching import critical_batch, excess, power_law, ramp
from anybatch.study.measuring import Trainer

SETTINGS = ["reference.num_epochs=null", "reference.num_examples=3200", "reference.batch_size=8",
            "phases.0.batch_size=8"]  # fmt: skip


def recipe(*others: str) -> Recipe:
    return change(find_recipe("digits-lenet"), [*SETTINGS, *others])


def test_branches_are_ordinary_runs_from_one_trunk(tmp_path: Path) -> None:
    planned = branching.plan(recipe(), 3200, points=[0.1, 0.5], factors=[1, 4])
    assert planned.steps == (40, 200)
    assert planned.window == 24 * 4 * 8
    assert planned.cost == 200 * 8 + 4 * planned.window
    assert "4 short runs" in planned.told()
    found = branching.measure(planned, tmp_path, Trainer(SilentProgress()), 0.01)
    assert [point["examples"] for point in found] == [320, 1600]
    for point in found:
        assert point["low"] <= (point["value"] or point["low"]) <= (point["high"] or 10**9)
        assert [one["factor"] for one in point["excess"]] == [4]
    # The trunk is the run itself, and a branch at the run's own batch goes on as it.
    train_recipe(recipe(), tmp_path / "run")
    whole = [event["loss"] for event in Run(tmp_path / "run").metrics("train")]
    trunk = [event["loss"] for event in Run(tmp_path / "trunk").metrics("train")]
    assert trunk == pytest.approx(whole[:200], rel=1e-4)
    own = [event["loss"] for event in Run(tmp_path / "step-00000040" / "x1").metrics("train")]
    assert own == pytest.approx(whole[40 : 40 + len(own)], rel=1e-3)
    # At four times the batch: twice the rate, and no second warm-up.
    rates = [event["lr"] for event in Run(tmp_path / "step-00000040" / "x4").metrics("train")]
    assert rates[0] == pytest.approx(2 * Run(tmp_path / "run").metrics("train")[40]["lr"], rel=1e-2)
    again = branching.measure(planned, tmp_path, Trainer(SilentProgress()), 0.01)
    assert again == found, "what was run is not run again"


def test_a_ramp_to_paste_starts(tmp_path: Path) -> None:
    found = branching.advise(
        recipe(), [0.2], [2], 5.0, "anybatch train digits-lenet", tmp_path, Trainer(SilentProgress())
    )
    assert json.loads(json.dumps(found)) == found
    assert found["critical_batch"][0].keys() == {"examples", "low", "value", "high", "excess"}
    assert found["ramp"] == [[0.2, 8], [0.8, 16]], "five nats are any difference"
    words = shlex.split(found["command"])
    assert change(recipe(), [words[words.index("--set") + 1]]).ramp
    assert "16 for 80%" in branches_text(found)


def test_a_stopped_measurement_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = branching.plan(recipe(), 3200, points=[0.1], factors=[2])
    to = Trainer.to

    def stopped(self: Trainer, branched: Recipe, folder: Path, step: int, title: str) -> Run:
        if folder.name == "x2":
            raise Stopped("SIGINT at step 41")
        return to(self, branched, folder, step, title)

    monkeypatch.setattr(Trainer, "to", stopped)
    with pytest.raises(Stopped):
        branching.measure(planned, tmp_path / "a", Trainer(SilentProgress()), 0.01)
    monkeypatch.undo()
    assert branching.measure(planned, tmp_path / "a", Trainer(SilentProgress()), 0.01) == branching.measure(
        planned, tmp_path / "b", Trainer(SilentProgress()), 0.01
    )


@pytest.mark.parametrize(
    ("points", "factors", "message"),
    [
        ([0.0], [2], "--points 0.0: .* above 0 and below 1"),
        ([], [2], "--points"),
        ([0.5], [0], "--factors 0: must be at least 1"),
        ([0.99], [2, 16], "choose smaller --factors, earlier --points or a longer run"),
    ],
)
def test_a_wrong_plan_is_one_line(points: list[float], factors: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        branching.plan(recipe(), 3200, points, factors)


def test_two_phases_are_refused() -> None:
    with pytest.raises(InputError, match="has 2 phases"):
        branching.plan(find_recipe("bert-mixed"), 10**6, [0.5], [2])


def test_a_run_s_own_settings_are_what_differs_from_the_recipe() -> None:
    found = differences(recipe("reference.rule=sde", "optimizer.name=adamw"), find_recipe("digits-lenet"))
    assert change(find_recipe("digits-lenet"), found) == recipe("reference.rule=sde", "optimizer.name=adamw")
    ramped = recipe("ramp=8:32")
    assert change(find_recipe("digits-lenet"), differences(ramped, find_recipe("digits-lenet"))) == ramped


def test_what_was_measured_otherwise_or_damaged_is_named(tmp_path: Path) -> None:
    given = ("anybatch train digits-lenet", tmp_path / "out", Trainer(SilentProgress()))
    branching.advise(recipe(), [0.1], [2], 0.01, *given)
    with pytest.raises(InputError, match=r"was measured with steps .* and factors"):
        branching.advise(recipe(), [0.1], [2, 4], 0.01, *given)
    with pytest.raises(InputError, match="has a ramp already"):
        branching.advise(recipe("ramp=8:16"), [0.1], [2], 0.01, *given)
    records = tmp_path / "out" / "step-00000040" / "x2" / "metrics.jsonl"
    records.write_text("", encoding="utf-8")
    with pytest.raises(InputError, match=r"x2.*metrics.jsonl: damaged: it has no evaluation of step"):
        branching.advise(recipe(), [0.1], [2], 0.01, *given)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="is not empty and holds no branches"):
        branching.advise(recipe(), [0.1], [2], 0.01, given[0], tmp_path / "mine", given[2])


def branches(*means: float, error: float = 0.0) -> list[dict[str, float]]:
    return [{"factor": 2 ** (number + 1), "mean": mean, "error": error} for number, mean in enumerate(means)]


@pytest.mark.parametrize(
    ("excesses", "low", "value", "high"),
    [
        (branches(0.0, 0.0, 0.0), 128, None, None),
        (branches(0.0, 0.005, 0.015), 64, 16 * 4 * 2**0.5, 128),
        (branches(0.02, 0.03), 16, 16 * 2**0.5, 32),
        # A larger batch that happens to be better again does not count.
        (branches(0.0, 0.03, 0.0), 32, 16 * 2 * 2 ** (1 / 3), 64),
        (branches(-0.01, 0.0, 0.02), 64, 16 * 4 * 2**0.5, 128),
        # Too noisy to say: between nothing and everything.
        (branches(0.0, 0.012, error=0.01), 16, 16 * 2 * 2 ** (0.01 / 0.012), None),
        (branches(0.0, math.inf), 32, 32.0, 64),
    ],
)
def test_it_lies_between_what_was_shown_to_lose_nothing_and_to_lose_more(
    excesses: Sequence[dict[str, float]], low: int, value: float | None, high: int | None
) -> None:
    found = critical_batch(1000, 16, 3.0, excesses, 0.01)
    assert (found["low"], found["high"]) == (low, high)
    assert found["value"] == (None if value is None else pytest.approx(value))


def test_a_small_loss_has_a_smaller_tolerance() -> None:
    assert critical_batch(1000, 16, 0.1, branches(0.005), 0.01)["high"] == 32
    assert critical_batch(1000, 16, 5.0, branches(0.005), 0.01)["high"] is None


def test_an_excess_is_a_paired_difference() -> None:
    found = excess(2, [3.1, 3.2, 3.3], [3.0, 3.1, 3.1])
    assert (found["mean"], found["error"]) == pytest.approx((0.4 / 3, math.sqrt(0.02 / 3 / 2 / 3)), rel=1e-6)
    assert excess(2, [3.0, math.inf], [3.0, 3.0])["mean"] == math.inf


def point(examples: int, low: int, value: float | None) -> dict[str, Any]:
    return {"examples": examples, "low": low, "value": value}


def test_a_power_law_is_found_again() -> None:
    scale, exponent = power_law([point(n, 1, 3 * n**0.5) for n in (100, 400, 1600)]) or (0, 0)
    assert (scale, exponent) == pytest.approx((3, 0.5))
    assert power_law([point(100, 1, 5.0), point(200, 1, None)]) is None
    assert power_law([point(100, 1, 5.0), point(100, 1, 6.0)]) is None


def test_the_ramp_never_shrinks_and_waits_for_the_first_point() -> None:
    points = [point(100, 16, 20), point(200, 70, 80), point(400, 32, 40), point(800, 200, 300)]
    assert ramp(points, 16, 1000) == [(0.2, 16), (pytest.approx(0.6), 64), (pytest.approx(0.2), 128)]
    assert ramp([point(100, 16, 20)], 16, 1000) == [(1.0, 16)]
    assert sum(share for share, _ in ramp(points, 16, 1000)) == pytest.approx(1)
