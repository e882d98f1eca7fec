"""A run that is stopped, killed or damaged goes on exactly where it was."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.linear_job import RaggedExamples, parameters, regression_job

from anybatch.engine import checkpoint, train
from anybatch.engine.background import BackgroundWriter
from anybatch.engine.job import Job, Phase
from anybatch.errors import Failed, InputError, Reached, Stopped
from anybatch.progress import SilentProgress
from anybatch.runs import Run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")


class Bomb:
    """What a pickle may hold: something that runs when it is opened."""

    def __init__(self, crater: Path) -> None:
        self.crater = crater

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.crater),)


def run_at(folder: Path) -> Run:
    folder.mkdir(exist_ok=True)
    return Run(folder)


class StopAt:
    """Examples that ask the process to stop, as a scheduler does, when those from `position` on are read."""

    def __init__(self, position: int, signal_number: int = signal.SIGTERM) -> None:
        self.position, self.signal_number, self.inner = position, signal_number, RaggedExamples()

    def read(self, start: int, count: int) -> Any:
        if start == self.position:
            os.kill(os.getpid(), self.signal_number)
        return self.inner.read(start, count)


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


@pytest.mark.parametrize("optimizer", ["lamb", "adamw"])
def test_a_stopped_run_resumes_bit_for_bit(tmp_path: Path, optimizer: str) -> None:
    whole = regression_job(dropout=0.3, optimizer=optimizer)
    train(whole, run_at(tmp_path / "whole"))

    run = run_at(tmp_path / "stopped")
    stopped = regression_job(dropout=0.3, optimizer=optimizer, examples=StopAt(60))  # type: ignore[arg-type]
    with pytest.raises(Stopped, match="SIGTERM at step 7 of 12"):
        train(stopped, run)
    assert json.loads(run.status_file.read_text())["outcome"] == "stopped"
    resumed = regression_job(dropout=0.3, optimizer=optimizer)
    train(resumed, run)

    assert torch.equal(parameters(resumed), parameters(whole))
    assert [event["step"] for event in run.metrics("train")] == list(range(1, 13))
    losses = [[event["loss"] for event in r.metrics("train")] for r in (run, Run(tmp_path / "whole"))]
    assert losses[0] == losses[1]


def test_a_killed_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole = regression_job(num_steps=40)
    train(whole, run_at(tmp_path / "whole"))
    run = run_at(tmp_path / "killed")
    script = (
        "import time\nfrom pathlib import Path\nfrom anybatch.engine import train\nfrom anybatch.runs import Run\n"
        "from engine.linear_job import RaggedExamples, regression_job\n"
        "class Slow(RaggedExamples):\n"
        "    def read(self, start, count):\n        time.sleep(0.02)\n        return super().read(start, count)\n"
        f"train(regression_job(num_steps=40, examples=Slow()), Run(Path({str(run.path)!r})))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment)
    try:
        deadline = time.monotonic() + 60
        while not (run.checkpoints / "step-00000015").exists():
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    resumed = regression_job(num_steps=40)
    train(resumed, run)
    assert torch.equal(parameters(resumed), parameters(whole))
    assert [event["step"] for event in run.metrics("train")] == list(range(1, 41))


@pytest.mark.parametrize("damage", ["truncate", "empty", "remove", "flip", "pickle"])
@pytest.mark.parametrize("file", ["model-00000.safetensors", "part-00000.json", "state.json"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str, file: str) -> None:
    whole = regression_job()
    train(whole, run_at(tmp_path / "whole"))
    run = run_at(tmp_path / "run")
    with pytest.raises(Stopped):
        train(regression_job(examples=StopAt(60)), run)  # type: ignore[arg-type]
    newest = run.checkpoints / "step-00000007" / file
    if damage == "remove":
        newest.unlink()
    elif damage == "pickle":
        newest.write_bytes(pickle.dumps(Bomb(tmp_path / "crater")))
        newest.with_name("model.pt").write_bytes(pickle.dumps(Bomb(tmp_path / "crater")))
    else:
        content = newest.read_bytes()
        damaged = {"truncate": content[:-8], "empty": b"", "flip": content[:-1] + bytes([content[-1] ^ 1])}
        newest.write_bytes(damaged[damage])
    said: list[str] = []
    resumed = regression_job()
    train(resumed, run, _Listener(said))
    assert "step-00000007: damaged" in said[0]
    assert not (tmp_path / "crater").exists()
    assert torch.equal(parameters(resumed), parameters(whole))


def test_events_after_the_checkpoint_are_not_repeated(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run")
    with pytest.raises(Stopped):
        train(regression_job(examples=StopAt(60)), run)  # type: ignore[arg-type]
    with open(run.metrics_file, "a") as metrics:
        metrics.write('{"event": "train", "step": 8, "loss": 1.0, "elapsed_s": 1.0}\n{"event": "tra')
    train(regression_job(), run)
    assert [event["step"] for event in run.metrics("train")] == list(range(1, 13))


def test_only_damaged_checkpoints_are_an_error(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run")
    with pytest.raises(Stopped):
        train(regression_job(examples=StopAt(60)), run)  # type: ignore[arg-type]
    for state in run.checkpoints.glob("*/state.json"):
        state.write_text("{")
    with pytest.raises(InputError, match="no sound checkpoint"):
        train(regression_job(), run)


def test_damaged_checkpoints_do_not_outlive_the_next_save(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run")
    with pytest.raises(Stopped):
        train(regression_job(examples=StopAt(60)), run)  # type: ignore[arg-type]
    for step in (90, 91):
        (run.checkpoints / f"step-{step:08d}").mkdir()
    train(regression_job(), run)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step-00000010", "step-00000012"]


def test_other_inputs_are_refused(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run")
    with pytest.raises(Stopped):
        train(regression_job(examples=StopAt(60)), run)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="belongs to a run with another vocabulary than"):
        train(regression_job(inputs={"data": "regression", "vocabulary": "something else"}), run)


def test_two_checkpoints_are_kept(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run")
    train(regression_job(num_steps=20), run)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step-00000015", "step-00000020"]


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on without the checkpoint of step 10, and fails where it cannot save its end."""
    run = run_at(tmp_path / "run")
    with pytest.raises(Stopped):
        train(regression_job(examples=StopAt(60)), run)  # type: ignore[arg-type]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr("anybatch.engine.pieces.save_file", full)
        with pytest.raises(OSError, match="No space left"):
            train(regression_job(), run, _Listener(said))
    told = f"{run.checkpoints / 'step-00000010'}: No space left on device"
    assert said == [f"step 10: not saved ({told}); the checkpoint of step 7 stays"]
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step-00000005", "step-00000007"]
    failed = run.metrics("save_failed")
    assert [(event["step"], event["message"]) for event in failed] == [(10, told)]
    assert json.loads(run.status_file.read_text())["outcome"] == "failed"
    assert [event["step"] for event in run.metrics("train")] == list(range(1, 13))
    whole, resumed = regression_job(), regression_job()
    train(whole, run_at(tmp_path / "whole"))
    train(resumed, run)
    assert torch.equal(parameters(resumed), parameters(whole))
    assert run.metrics("save_failed") == failed, "resuming before it does not forget it"


def test_checkpoints_written_beside_the_steps_are_the_same_files(tmp_path: Path) -> None:
    """Of every step, so that a later step would show in an earlier one's files if they were not copies."""
    for name, beside in (("plain", False), ("beside", True)):
        settings = {"checkpoint_every_steps": 1, "keep_last": 99, "async_checkpoints": beside}
        train(regression_job(execution=settings), run_at(tmp_path / name))
    plain, beside = (
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name / "checkpoints").rglob("*.*")
        }
        for name in ("plain", "beside")
    )
    assert len(plain) == 12 * 4
    assert beside == plain


def test_a_checkpoint_under_way_is_finished_before_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread of step 5 is held until the run waits for it, which it does when it is asked to stop."""
    waiting = threading.Event()
    written = checkpoint.write
    collect = BackgroundWriter.collect

    def slow(folder: Path, content: checkpoint.Content, *rest: Any) -> None:
        assert waiting.wait(60)
        written(folder, content, *rest)

    def announced(writer: BackgroundWriter) -> bool:
        if writer.step:
            waiting.set()
        return collect(writer)

    monkeypatch.setattr("anybatch.engine.background.write", slow)
    monkeypatch.setattr(BackgroundWriter, "collect", announced)
    run = run_at(tmp_path / "run")
    with pytest.raises(Stopped):
        train(regression_job(examples=StopAt(60), execution={"async_checkpoints": True}), run)  # type: ignore[arg-type]
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step-00000005", "step-00000007"]
    whole, resumed = regression_job(), regression_job(execution={"async_checkpoints": True})
    train(whole, run_at(tmp_path / "whole"))
    train(resumed, run)
    assert torch.equal(parameters(resumed), parameters(whole))


def test_a_save_that_fails_beside_the_steps_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, content: checkpoint.Content, *rest: Any) -> None:
        raise OSError(28, "No space left on device")

    said: list[str] = []
    monkeypatch.setattr("anybatch.engine.background.write", full)
    run = run_at(tmp_path / "run")
    train(regression_job(execution={"async_checkpoints": True}), run, _Listener(said))
    assert [event["step"] for event in run.metrics("save_failed")] == [5, 10]
    assert said[0] == "step 5: not saved ([Errno 28] No space left on device); the checkpoint of step 0 stays"
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000012"]


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


def test_the_best_checkpoint_is_kept_beside_the_newest(tmp_path: Path) -> None:
    """Held-out losses are those of steps 4, 8 and 12; what is not evaluated is not among the best."""
    run = run_at(tmp_path / "run")
    train(regression_job(execution={"keep_last": 1, "keep_best": 1}), run)
    losses = {event["step"]: event["loss"] for event in run.metrics("eval") if event["step"]}
    best = min(losses, key=lambda step: losses[step])
    kept = {int(path.name.removeprefix("step-")) for path in run.checkpoints.iterdir()}
    assert kept == {best, 12}


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


class _Listener(SilentProgress):
    def __init__(self, said: list[str]) -> None:
        self.said = said

    def say(self, line: str) -> None:
        self.said.append(line)


def test_a_run_that_is_to_stop_early_shows_progress_to_where_it_stops(tmp_path: Path) -> None:
    class Totals(SilentProgress):
        found: list[tuple[int, int]] = []  # noqa: RUF012

        def task(self, title: str, total: int, done: int = 0) -> Any:
            self.found.append((total, done))
            return super().task(title, total, done)

    job = regression_job(execution={"stop_after_steps": 3})
    with pytest.raises(Reached, match=r"engine\.stop_after_steps = 3"):
        train(job, run_at(tmp_path / "run"), progress=Totals())
    assert Totals.found[0] == (3 * job.phases[0].global_batch_size, 0)
    assert Totals.found[0][0] < job.num_examples
