"""Runs side by side: in order, shown in one place, and stopped together."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from anybatch.engine import Progress, stop_requests
from anybatch.errors import InputError, Stopped
from anybatch.progress import SilentProgress
from anybatch.study.workers import _take_gpu, run_side_by_side


class Heard(SilentProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def work(number: int, progress: Progress) -> tuple[int, int]:
    task = progress.task(f"work {number}", 10)
    task.advance(5, "half")
    task.end()
    progress.say(f"did {number}")
    return number, os.getpid()


def fail(progress: Progress) -> None:
    raise InputError("this one is wrong")


def wait_until_asked(folder: Path, name: str, progress: Progress) -> None:
    """Runs until it is asked to stop, and leaves a mark of having been."""
    (folder / f"{name}.started").touch()
    with stop_requests() as request:
        deadline = time.monotonic() + 60
        while request.reason is None and time.monotonic() < deadline:
            time.sleep(0.01)
    (folder / f"{name}.{request.reason}").touch()
    raise Stopped("asked")


def interrupt_when_started(folder: Path, progress: Progress) -> None:
    """Asks the process that started this one to stop, once the other call is under way."""
    while not (folder / "a.started").exists():
        time.sleep(0.01)
    os.kill(os.getppid(), signal.SIGINT)


def test_results_come_in_order_from_other_processes() -> None:
    heard = Heard()
    results = run_side_by_side([partial(work, number) for number in range(4)], 2, heard)
    assert [number for number, _ in results] == [0, 1, 2, 3]
    assert os.getpid() not in {pid for _, pid in results}
    assert sorted(heard.lines) == [f"did {number}" for number in range(4)]


def test_one_failure_stops_the_others(tmp_path: Path) -> None:
    calls = [partial(wait_until_asked, tmp_path, "a"), fail, partial(wait_until_asked, tmp_path, "never")]
    with pytest.raises(InputError, match="this one is wrong"):
        run_side_by_side(calls, 2, SilentProgress())
    assert not (tmp_path / "never.started").exists() or (tmp_path / "never.SIGTERM").exists()
    assert not (tmp_path / "a.started").exists() or (tmp_path / "a.SIGTERM").exists()


def test_an_interrupt_stops_all_and_says_so(tmp_path: Path) -> None:
    calls = [partial(wait_until_asked, tmp_path, "a"), partial(interrupt_when_started, tmp_path)]
    with pytest.raises(Stopped, match="SIGINT"):
        run_side_by_side(calls, 2, SilentProgress())
    assert (tmp_path / "a.SIGTERM").exists()


def test_workers_are_spread_over_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setenv("LOCAL_RANK", "0")
    taken = []
    for number in range(5):
        _take_gpu(number)
        taken.append(os.environ["LOCAL_RANK"])
    assert taken == ["0", "1", "2", "0", "1"]
