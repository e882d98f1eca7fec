"""How the ranks of one machine tell the supervisor that started them who they are and how they ended.

A file a rank in the folder that the supervisor names in the environment; without it, nothing is written.
"""

import os
from pathlib import Path
from typing import Any

from anybatch.files import read_object, write_json

FOLDER_VARIABLE = "ANYBATCH_OUTCOMES"
# Written by the launcher: {rank: exit code} of those that failed, the first one first.
FAILURES = "failures.json"


def supervised() -> bool:
    """Whether a supervisor started this process, and will say how it ended."""
    return FOLDER_VARIABLE in os.environ


def enter(rank: int) -> None:
    """Tells the supervisor this rank's process, so that it can pass signals on."""
    _write(rank, {"rank": rank, "process": os.getpid()})


def write(rank: int, code: int, message: str, is_cause: bool = True) -> None:
    """Tells how this rank ends and why; `is_cause` is False where the message only says that another rank is lost."""
    told = {"rank": rank, "process": os.getpid(), "code": code, "message": message, "is_cause": is_cause}
    _write(rank, told)


def read(folder: Path) -> dict[int, dict[str, Any]]:
    """What the ranks have told so far, by rank."""
    told = (read_object(path) for path in sorted(folder.glob("rank-*.json")))
    return {value["rank"]: value for value in told}


def _write(rank: int, value: dict[str, Any]) -> None:
    if supervised():
        write_json(Path(os.environ[FOLDER_VARIABLE]) / f"rank-{rank}.json", value)
