"""Any number of workers on one storage run every declared trial once and make one table, whoever is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.command_line import anybatch

PLANTED = Path(__file__).parents[1] / "support" / "planted.py"
SMALL = ("--batch-size", "64", "--batch-size", "256", "--seeds", "2")
# Missed soon; only for a worker that is alone, as a slow machine may well take a living one for lost.
QUICK = ("--heartbeat", "1")
NUM_TRIALS = 2 * 2 * (4 + 2)


def start(out: Path, *options: str, **env: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "anybatch", "study", str(PLANTED), "--out", str(out), *SMALL, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def table(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "study.json").read_text(encoding="utf-8"))
    del found["environment"]
    return found


def ran(out: Path) -> list[str]:
    return sorted((out / "ran.txt").read_text(encoding="utf-8").split())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    result = anybatch("study", PLANTED, "--out", out, *SMALL, cwd=out)
    assert result.returncode == 0, result.stderr
    return out


@pytest.mark.slow
def test_two_workers_run_every_trial_once_and_make_the_table_of_one(alone: Path, tmp_path: Path) -> None:
    workers = [start(tmp_path, PLANTED_SLEEP_S="0.05") for _ in range(2)]
    assert [worker.wait(timeout=200) for worker in workers] == [0, 0]
    assert len(ran(tmp_path)) == NUM_TRIALS
    assert ran(tmp_path) == ran(alone)
    assert table(tmp_path) == table(alone)


@pytest.mark.slow
def test_a_killed_workers_trial_is_taken_over(alone: Path, tmp_path: Path) -> None:
    blocked = "AdamW-b64-tuning-001-s1000"
    worker = start(tmp_path, *QUICK, PLANTED_BLOCK=blocked)
    deadline = time.monotonic() + 200
    while not (tmp_path / "blocked").exists():
        assert worker.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert start(tmp_path, *QUICK).wait(timeout=200) == 0
    assert ran(tmp_path) == sorted([*ran(alone), blocked])
    assert table(tmp_path) == table(alone)


def test_a_finished_study_resumed_does_nothing(alone: Path) -> None:
    before, found = ran(alone), table(alone)
    result = anybatch("study", PLANTED, "--out", alone, *SMALL, "--json", cwd=alone)
    assert result.returncode == 0, result.stderr
    printed = json.loads(result.stdout)
    del printed["environment"]
    assert printed == found == table(alone)
    assert ran(alone) == before
