"""Files by which the ranks of one machine tell their supervisor who they are and how they ended.

Each rank has a file in the folder that the supervisor names in the environment; without this folder, nothing is
written. The supervisor holds a lock in it while it lives; the system releases the lock, however the supervisor ends.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anybatch.files import locked, read_object, write_json

FOLDER_VARIABLE = "ANYBATCH_OUTCOMES"
# Written by the launcher: {rank: exit code} of the ranks that failed, the first one first.
FAILURES = "failures.json"
_LOCK = "supervisor.lock"


def supervised() -> bool:
    """Returns whether a supervisor started this process, and will report how it ended."""
    return FOLDER_VARIABLE in os.environ


@contextmanager
def supervising(folder: Path) -> Iterator[None]:
    """A block of the supervisor, during which the processes that it started know that it lives."""
    with locked(folder / _LOCK):
        yield


def abandoned() -> bool:
    """Returns whether this process's supervisor is gone; only a kill does this, since it outlives its ranks."""
    if not supervised():
        return False
    try:
        with locked(Path(os.environ[FOLDER_VARIABLE]) / _LOCK, wait_s=0):
            return True
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True


def enter(rank: int) -> None:
    """Tells the supervisor this rank's process, so that it can pass signals on."""
    _write(rank, {"rank": rank, "process": os.getpid()})


def write(rank: int, code: int, message: str, is_cause: bool = True) -> None:
    """Records how this rank ends and why; `is_cause` is False if the message is only that another rank is lost."""
    told = {"rank": rank, "process": os.getpid(), "code": code, "message": message, "is_cause": is_cause}
    _write(rank, told)


def processes(folder: Path) -> list[int]:
    """Returns the remaining processes of the supervisor with this folder, with their descendants; Linux only."""
    return [
        int(process.name)
        for process in Path("/proc").glob("[0-9]*")
        if process.name != str(os.getpid()) and _has_variable(process, folder)
    ]


def _has_variable(process: Path, folder: Path) -> bool:
    try:
        return os.fsencode(f"{FOLDER_VARIABLE}={folder}") in (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def read(folder: Path) -> dict[int, dict[str, Any]]:
    """Returns what the ranks have recorded so far, by rank."""
    told = (read_object(path) for path in sorted(folder.glob("rank-*.json")))
    return {value["rank"]: value for value in told}


def _write(rank: int, value: dict[str, Any]) -> None:
    if supervised():
        write_json(Path(os.environ[FOLDER_VARIABLE]) / f"rank-{rank}.json", value)
