"""Whatever happens to one rank, all of them end, soon, and what was first is what the user reads."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.forked import run_script
from torch.distributed import HashStore

from anybatch.engine.watch import Watch

SCRIPT = Path(__file__).parents[1] / "support" / "faulty_ranks.py"
FAULTS = ("raise", "input", "memory", "kill", "hang", "freeze", "stop")
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
    """All faults, side by side."""
    top = tmp_path_factory.mktemp("faults")
    run_script(SCRIPT, top, *FAULTS, limit_s=LIMIT_S)
    return {folder.name: _read(folder) for folder in top.iterdir()}


def _read(folder: Path) -> Ended:
    first, second = ((folder / f"printed-{rank}").read_text() for rank in (0, 1))
    codes = json.loads((folder / "codes.json").read_text())
    return Ended(tuple(codes), (first, second), json.loads((folder / "run" / "status.json").read_text()), folder)


def test_the_rank_that_raises_says_why(ended: dict[str, Ended]) -> None:
    end = ended["raise"]
    assert end.codes == (1, 1)
    assert end.printed[1].splitlines()[-1].removeprefix("[rank1]: ") == "RuntimeError: the reader of rank 1 is broken"
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
    assert end.printed == ("", f"anybatch: error: {end.status['message']}\n")


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
    assert end.status["message"].startswith("rank 1: no progress for 3 s, reading the examples of step 4")


def test_a_rank_without_a_sign_of_life_is_missed(ended: dict[str, Ended]) -> None:
    """Its connections stand, so that nothing but the watch can tell."""
    end = ended["freeze"]
    assert end.codes == (1, -9)
    assert end.printed[0].splitlines()[-1].startswith("anybatch: error: rank 1 has given no sign of life for 8 s")
    assert end.status["outcome"] == "failed"


def test_all_ranks_stop_after_the_same_step_and_save(ended: dict[str, Ended]) -> None:
    end = ended["stop"]
    assert end.codes == (75, 75)
    assert end.printed[0] == "anybatch: error: SIGUSR1 at step 4 of 12; saved, --resume continues from there\n"
    assert end.status["outcome"] == "stopped"
    assert (end.folder / "run" / "checkpoints" / "step-00000004").is_dir()


def test_a_rank_that_ends_before_its_first_sign_of_life_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(0, 2, HashStore())
    assert watch._missing() is None
    monkeypatch.setattr("anybatch.engine.watch._LOST_AFTER_S", -1.0)
    assert "rank 1 has given no sign of life" in (watch._missing() or "")
