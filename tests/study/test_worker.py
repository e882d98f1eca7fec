"""A study loses no trial: who is lost, who is only slow, and what happens while the storage is away."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from support import planted

from anybatch.cli import main
from anybatch.environment import describe_environment
from anybatch.errors import Failed, InputError
from anybatch.progress import SilentProgress
from anybatch.runs import InUse, locked
from anybatch.study import Outcome, Study, Trial, trial_queue
from anybatch.study.execution import run_folder
from anybatch.study.trial_queue import TrialQueue
from anybatch.study.worker import run_trial

DONE = Outcome(((1, 1, 0.5),), False, 1)


class Clock:
    """The time of one process, which only the test moves on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(trial_queue, "time", clock)
    return clock


def queue_of(folder: Path, **options: object) -> TrialQueue:
    study = replace(planted.study(), protocol="untuned", batch_sizes=(64,), seeds=(0,))
    return TrialQueue(study, f"sqlite:///{folder / 'q.sqlite'}", 20, **options)  # type: ignore[arg-type]


@contextmanager
def all_taken(first: TrialQueue) -> Iterator[list[trial_queue.Taken]]:
    first.declare_all()
    taken = []
    while (one := first.take()) is not None:
        taken.append(one)
    assert taken
    yield taken


def test_a_worker_is_lost_only_if_its_signs_of_life_stand_still_by_the_own_clock(tmp_path: Path, clock: Clock) -> None:
    first, second = queue_of(tmp_path), queue_of(tmp_path)
    with all_taken(first) as taken:
        assert second.take() is None
        for beat in range(5):
            clock.now += 55
            for one in taken:
                first._storage.set_trial_user_attr(one.storage_id, "beat", {"count": beat, "every_s": 20})
            assert second.take() is None, "alive"
        clock.now += 59
        assert second.take() is None
        clock.now += 2
        again = second.take() or second.take()
        assert again is not None
        assert again.trial.key in {one.trial.key for one in taken}


def test_a_worker_with_a_slower_heart_is_waited_for(tmp_path: Path, clock: Clock) -> None:
    first, second = queue_of(tmp_path), queue_of(tmp_path)
    with all_taken(first) as taken:
        for one in taken:
            first._storage.set_trial_user_attr(one.storage_id, "beat", {"count": 1, "every_s": 100})
        assert second.take() is None
        clock.now += 299
        assert second.take() is None
        clock.now += 2
        assert (second.take() or second.take()) is not None


def test_a_locked_run_folder_is_a_sign_of_life(tmp_path: Path, clock: Clock) -> None:
    held = {"now": True}
    first, second = queue_of(tmp_path), queue_of(tmp_path, busy=lambda trial: held["now"])
    with all_taken(first):
        second.take()
        clock.now += 1e6
        assert second.take() is None
        held["now"] = False
        assert (second.take() or second.take()) is not None


def test_a_trial_whose_folder_another_process_holds_is_given_back_and_not_failed(tmp_path: Path) -> None:
    queue = queue_of(tmp_path)
    queue.declare_all()
    taken = queue.take()
    assert taken is not None
    folder = run_folder(tmp_path, taken.trial)
    folder.mkdir(parents=True)

    def held(study: Study, trial: Trial, *rest: object) -> Outcome:
        with locked(folder), pytest.raises(InUse) as caught, locked(folder):
            pass
        raise caught.value

    run_trial(replace(queue.study, run=held), queue, taken, tmp_path, SilentProgress())
    assert queue.results() == {}
    keys = [again.trial.key for _ in range(4) if (again := queue.take()) is not None]
    assert taken.trial.key in keys


def test_the_good_result_of_a_worker_that_was_taken_for_lost_stands(tmp_path: Path) -> None:
    queue = queue_of(tmp_path)
    queue.declare_all()
    taken = queue.take()
    assert taken is not None
    queue._storage.set_trial_state_values(taken.storage_id, TrialState.FAIL)
    queue.succeed(taken, DONE, {})
    assert queue.results()[taken.trial.key].outcome == DONE


def away(text: str) -> StorageInternalError:
    error = StorageInternalError("invalid data in the commit")
    error.__cause__ = sqlalchemy.exc.OperationalError("SELECT", {}, ConnectionError(text))
    return error


def test_a_storage_that_is_away_for_a_minute_costs_a_minute(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    queue = queue_of(tmp_path, say=said.append)
    queue.declare_all()
    back, ask = clock.now + 60, queue._study.get_trials

    def answer(**options: object) -> object:
        if clock.now < back:
            raise away("connection refused")
        return ask(deepcopy=False)

    monkeypatch.setattr(queue._study, "get_trials", answer)
    assert queue.take() is not None
    assert back <= clock.now < back + 5
    assert len(said) == 1
    assert "the storage is away; asking again" in said[0]
    back = clock.now + 1e6
    with pytest.raises(Failed, match=r"the storage is lost: .*connection refused; the same command goes on"):
        queue.take()


@pytest.mark.parametrize(
    "text", ["password authentication failed for user", 'database "x" does not exist', "Access denied for user 'u'"]
)
def test_what_cannot_change_is_not_asked_again(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    queue = queue_of(tmp_path)
    before = clock.now

    def answer(**options: object) -> object:
        raise away(text)

    monkeypatch.setattr(queue._study, "get_trials", answer)
    with pytest.raises(Failed, match="the storage is lost"):
        queue.take()
    assert clock.now == before


SECRETS = [
    "postgresql+psycopg://u:s3cr3t@127.0.0.1:1/x",
    "postgresql+nodriver://u:s3cr3t@127.0.0.1:1/x",
    "nosuch://u:s3cr3t@127.0.0.1/x",
    "postgresql://u:s3cr3t@host:port/x",
    "postgresql:/u:s3cr3t@host/x",
    "mysql+pymysql://u:s3cr3t@127.0.0.1:1/x",
    "postgresql://u:s3cr3t@x@127.0.0.1:1/x",
    "postgresql://u:x@s3cr3t@127.0.0.1:1/x",
    "postgresql://u:s3cr3t%40x@127.0.0.1:1/x",
    "postgresql://127.0.0.1:1/x?user=u&password=s3cr3t",
    "sqlite://u:s3cr3t@/nowhere",
]


@pytest.mark.parametrize("url", SECRETS)
def test_no_password_is_shown(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["anybatch", "study", planted.__file__, "--out", str(tmp_path / "out"), "--storage", url]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as caught:
        main()
    said = capsys.readouterr()
    assert caught.value.code == 2
    assert said.err.count("\n") == 1
    assert "cannot be opened" in said.err
    assert "s3cr3t" not in said.out + said.err
    assert "s3cr3t" not in json.dumps(describe_environment())
    for file in (tmp_path / "out").rglob("*"):
        assert b"s3cr3t" not in file.read_bytes()


def test_a_study_of_another_name_is_told_without_the_password(tmp_path: Path) -> None:
    queue_of(tmp_path)
    study = replace(planted.study(), target=1.5)
    with pytest.raises(InputError, match="declared otherwise"):
        TrialQueue(study, f"sqlite:///{tmp_path / 'q.sqlite'}", 20)


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.1, 1.5])
def test_an_interrupt_while_workers_start_is_one_line(tmp_path: Path, after_s: float) -> None:
    """Sent to the whole group of processes, as a terminal does."""
    command = [sys.executable, "-m", "anybatch", "study", planted.__file__, "--out", str(tmp_path), "--workers", "2"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PLANTED_SLEEP_S": "1"},
    )  # fmt: skip
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        deadline = time.monotonic() + 120
        # The workers, and multiprocessing's own tracker.
        while len(children.read_text().split()) < 3:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(after_s)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    lines = [line for line in said.splitlines() if " steps" not in line]
    assert process.returncode == 75, said
    assert len(lines) == 1
    assert lines[0].startswith("anybatch: error: SIGINT; what was under way is saved")
