"""A run that is stopped, killed or damaged goes on exactly where it was."""

import json
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from support.linear_job import Listener, StopAt, parameters, regression_job, run_at

from anybatch.engine import checkpoint, train
from anybatch.engine.background import BackgroundWriter
from anybatch.errors import InputError, Stopped
from anybatch.runs import Run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")


class Bomb:
    """What a pickle may hold: something that runs when it is opened."""

    def __init__(self, crater: Path) -> None:
        self.crater = crater

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.crater),)


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
        "from support.linear_job import RaggedExamples, regression_job\n"
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
    train(resumed, run, Listener(said))
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
            train(regression_job(), run, Listener(said))
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
    train(regression_job(execution={"async_checkpoints": True}), run, Listener(said))
    assert [event["step"] for event in run.metrics("save_failed")] == [5, 10]
    assert said[0] == "step 5: not saved ([Errno 28] No space left on device); the checkpoint of step 0 stays"
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000012"]


def test_the_best_checkpoint_is_kept_beside_the_newest(tmp_path: Path) -> None:
    """Held-out losses are those of steps 4, 8 and 12; what is not evaluated is not among the best."""
    run = run_at(tmp_path / "run")
    train(regression_job(execution={"keep_last": 1, "keep_best": 1}), run)
    losses = {event["step"]: event["loss"] for event in run.metrics("eval") if event["step"]}
    best = min(losses, key=lambda step: losses[step])
    kept = {int(path.name.removeprefix("step-")) for path in run.checkpoints.iterdir()}
    assert kept == {best, 12}
