"""A run learns, records itself, goes from phase to phase, and gives up where it must."""

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.linear_job import RaggedExamples, StopAt, parameters, regression_job, run_at

from anybatch.engine import train
from anybatch.engine.job import Job, Phase
from anybatch.errors import Failed, InputError, Reached, Stopped
from anybatch.progress import SilentProgress

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")


def test_a_run_learns_and_records_itself(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run")
    result = train(regression_job(), run)
    steps = run.metrics("train")
    assert [event["step"] for event in steps] == list(range(1, 13))
    assert [event["examples"] for event in steps] == list(range(10, 121, 10))
    assert steps[0]["lr"] == pytest.approx(0.05)
    evals = run.metrics("eval")
    assert [event["step"] for event in evals] == [0, 4, 8, 12]
    assert evals[-1]["loss"] < evals[0]["loss"]
    assert [event["step"] for event in run.metrics("trust_ratios")] == [3, 6, 9, 12]
    assert result == run.result()
    assert result["num_steps"] == 12
    assert result["num_examples"] == 120
    assert json.loads(run.status_file.read_text())["outcome"] == "finished"


def test_skipped_steps_are_counted(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run")
    result = train(regression_job(examples=RaggedExamples(poison=33)), run)
    assert result["skipped_steps"] == 1
    assert [event["step"] for event in run.metrics("train") if event["skipped"]] == [4]
    assert "NaN" not in run.metrics_file.read_text()
    assert run.metrics("train")[3]["loss"] is None


def test_a_run_none_of_whose_steps_was_taken_has_failed(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run")
    lost = RaggedExamples(poison=-1)
    with pytest.raises(Failed, match="none of the 12 steps was taken"):
        train(regression_job(examples=lost), run)
    assert json.loads(run.status_file.read_text())["outcome"] == "failed"
    assert not run.finished
    assert not run.model.exists()


def test_phases_follow_each_other(tmp_path: Path) -> None:
    examples = RaggedExamples()
    phases = [Phase(examples, 10, 3, 0.1, 0, lambda t: 1.0), Phase(examples, 4, 5, 0.02, 0, lambda t: 1 / (t + 1))]
    job: Job = regression_job(phases=phases)
    run = run_at(tmp_path / "run")
    train(job, run)
    events = run.metrics("train")
    assert [event["examples"] for event in events] == [10, 20, 30, 34, 38, 42, 46, 50]
    assert [event["lr"] for event in events[2:5]] == pytest.approx([0.1, 0.02, 0.01])


def two_phases(carry_over: str, optimizer: str = "lamb", examples: Any = None) -> Job:
    """Five steps of ten examples, then seven of four."""
    examples = examples or RaggedExamples()
    second = Phase(examples, 4, 7, 0.02, 0, lambda t: 1 / (t + 1), carry_over=carry_over)  # type: ignore[arg-type]
    return regression_job(phases=[Phase(examples, 10, 5, 0.1, 0, lambda t: 1.0), second], optimizer=optimizer)


@pytest.mark.parametrize("optimizer", ["lamb", "adamw"])
def test_the_optimizer_goes_over_to_the_next_phase_as_asked(tmp_path: Path, optimizer: str) -> None:
    ends = {}
    for carry_over, steps in (("keep", 12), ("reset_step", 7), ("new", 7)):
        job = two_phases(carry_over, optimizer)
        train(job, run_at(tmp_path / carry_over))
        assert {int(state["step"]) for state in job.optimizer.state.values()} == {steps}
        ends[carry_over] = parameters(job)
    assert not torch.equal(ends["keep"], ends["reset_step"])
    assert not torch.equal(ends["reset_step"], ends["new"]), "the moments are kept"


@pytest.mark.parametrize("position", [30, 40, 50, 54, 70])
def test_phases_resume_bit_for_bit(tmp_path: Path, position: int) -> None:
    """Stopped before, at and after the step that joins the phases."""
    whole = two_phases("reset_step")
    train(whole, run_at(tmp_path / "whole"))
    run = run_at(tmp_path / "stopped")
    with pytest.raises(Stopped):
        train(two_phases("reset_step", examples=StopAt(position)), run)
    resumed = two_phases("reset_step")
    train(resumed, run)
    assert torch.equal(parameters(resumed), parameters(whole))
    assert [event["phase"] for event in run.metrics("train")] == [0] * 5 + [1] * 7


def test_a_run_without_finite_gradients_gives_up(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run")
    job = regression_job(execution={"max_skipped_steps": 3})
    with torch.no_grad():
        job.model.get_parameter("out.bias").fill_(torch.nan)
    with pytest.raises(Failed, match=r"step 3: 3 steps in a row had no finite .* last sound one is step 0") as caught:
        train(job, run)
    assert "\n" not in str(caught.value)
    assert json.loads(run.status_file.read_text())["outcome"] == "failed"


def test_a_loss_that_jumps_is_recorded(tmp_path: Path) -> None:
    class Jumping(RaggedExamples):
        def read(self, start: int, count: int) -> Any:
            batch = super().read(start, count)
            factor = 100 if start <= 300 < start + count else 1
            return replace(batch, inputs={**batch.inputs, "y": batch.inputs["y"] * factor})

    run = run_at(tmp_path / "run")
    train(regression_job(num_steps=40, micro_batch_size=10, examples=Jumping()), run)
    assert [event["step"] for event in run.metrics("train") if event["spike"]] == [31]


def test_reading_ahead_changes_nothing_and_hands_errors_on(tmp_path: Path) -> None:
    class Broken(RaggedExamples):
        def read(self, start: int, count: int) -> Any:
            if start >= 60:
                raise InputError("shard-00003: truncated")
            return super().read(start, count)

    jobs = [regression_job(execution={"prefetch": prefetch}) for prefetch in (True, False)]
    for number, job in enumerate(jobs):
        train(job, run_at(tmp_path / str(number)))
    assert torch.equal(*map(parameters, jobs))
    with pytest.raises(InputError, match="shard-00003"):
        train(regression_job(examples=Broken(), execution={"prefetch": True}), run_at(tmp_path / "broken"))
    assert threading.active_count() == 1


@pytest.mark.parametrize("settings", [{"precision": "bf16"}, {"activation_checkpointing": True}])
def test_other_ways_to_compute(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Recomputed activations give the same bits; in float64, autocast has nothing to cast but the products."""
    plain, other = regression_job(), regression_job(execution=settings)
    train(plain, run_at(tmp_path / "plain"))
    train(other, run_at(tmp_path / "other"))
    difference = (parameters(plain) - parameters(other)).norm() / parameters(plain).norm()
    assert difference == 0 if "activation_checkpointing" in settings else difference < 0.05


def test_a_run_that_is_to_stop_early_shows_progress_to_where_it_stops(tmp_path: Path) -> None:
    class Totals(SilentProgress):
        found: list[tuple[int, int]] = []  # noqa: RUF012

        def task(self, title: str, total: int, done: int = 0) -> Any:
            self.found.append((total, done))
            return super().task(title, total, done)

    job = regression_job(execution={"stop_after_steps": 3})
    with pytest.raises(Reached, match=r"stopped after step 3 of .*, as engine\.stop_after_steps asks"):
        train(job, run_at(tmp_path / "run"), progress=Totals())
    assert Totals.found[0] == (3 * job.phases[0].global_batch_size, 0)
    assert Totals.found[0][0] < job.num_examples
