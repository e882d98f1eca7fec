"""Whatever happens to one rank, all of them end, soon, and what was first is what the user reads."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("faulty_rank.py")
FAULTS = ("raise", "input", "memory", "kill", "hang", "stop")
# Far above what an ending takes on a busy machine, far below the limits of gloo and NCCL, which are minutes.
LIMIT_S = 90


@dataclass(frozen=True)
class Ended:
    """Two ranks' exit codes, what they printed, and the run's status."""

    codes: tuple[int, int]
    printed: tuple[str, str]
    status: dict[str, str]
    folder: Path


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """All faults, side by side: starting processes is what takes the time."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    environment.pop("RANK", None)
    started: dict[str, tuple[Path, list[subprocess.Popen[str]]]] = {}
    for fault in FAULTS:
        folder = tmp_path_factory.mktemp(fault)
        (folder / "run").mkdir()
        commands = [[sys.executable, str(SCRIPT), str(folder), str(rank), "2", fault] for rank in (0, 1)]
        started[fault] = (
            folder,
            [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for command in commands],
        )
    deadline = time.monotonic() + LIMIT_S
    found = {}
    try:
        for fault, (folder, ranks) in started.items():
            printed = [rank.communicate(timeout=max(1, deadline - time.monotonic()))[1] for rank in ranks]
            status = json.loads((folder / "run" / "status.json").read_text())
            found[fault] = Ended((ranks[0].returncode, ranks[1].returncode), (printed[0], printed[1]), status, folder)
    finally:
        for _, ranks in started.values():
            for rank in ranks:
                rank.kill()
    return found


def test_the_rank_that_raises_says_why(ended: dict[str, Ended]) -> None:
    end = ended["raise"]
    assert end.codes == (1, 1)
    assert end.printed[1].splitlines()[-1] == "RuntimeError: the reader of rank 1 is broken"
    assert end.printed[0] == ""
    assert end.status["outcome"] == "failed"
    assert end.status["message"] == "rank 1: RuntimeError: the reader of rank 1 is broken"


def test_what_the_user_can_mend_exits_with_2_on_every_rank(ended: dict[str, Ended]) -> None:
    end = ended["input"]
    assert end.codes == (2, 2)
    assert end.printed == ("", "anybatch: error: shard-00007: truncated\n")


def test_out_of_memory_is_explained(ended: dict[str, Ended]) -> None:
    end = ended["memory"]
    assert end.codes == (1, 1)
    assert end.status["message"].startswith("rank 1: out of memory; choose a smaller engine.micro_batch_size")


def test_a_killed_rank_ends_the_others(ended: dict[str, Ended]) -> None:
    end = ended["kill"]
    assert end.codes == (1, -9)
    assert end.printed[0].startswith("anybatch: error: rank 0: lost contact with another rank")
    assert end.printed[0].count("\n") == 1
    assert end.status["outcome"] == "failed"


def test_a_rank_that_hangs_is_named_with_where_it_stood(ended: dict[str, Ended]) -> None:
    end = ended["hang"]
    assert end.codes == (1, 1)
    assert "rank 1: no progress for 3 s" in end.printed[1].splitlines()[-1]
    assert "read" in (end.folder / "run" / "stacks-rank1.txt").read_text()
    assert end.status["message"].startswith("rank 1: no progress for 3 s")


def test_all_ranks_stop_after_the_same_step_and_save(ended: dict[str, Ended]) -> None:
    end = ended["stop"]
    assert end.codes == (75, 75)
    assert end.printed[0] == "anybatch: error: SIGUSR1 at step 4 of 12; saved, --resume goes on from there\n"
    assert end.status["outcome"] == "stopped"
    assert (end.folder / "run" / "checkpoints" / "step-00000004").is_dir()
