"""An unfinished folder beside its final place: continued after a kill, shown whole or not at all."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anybatch.errors import InputError
from anybatch.files import locked, read_json, reveal, write_json

_PROGRESS = "progress.json"
_SAVED_EVERY_S = 5.0


@dataclass
class Staging:
    """Work in `folder`; `saved` is the last state that a killed process saved of the same work."""

    folder: Path
    identity: dict[str, Any] | None
    saved: dict[str, Any] = field(default_factory=dict)
    _saved_at: float = field(default_factory=time.monotonic)

    def save(self, state: Callable[[], dict[str, Any]], *, now: bool = False) -> None:
        """Saves the result of `state`, every few seconds."""
        if self.identity is not None and (now or time.monotonic() - self._saved_at >= _SAVED_EVERY_S):
            write_json(self.folder / _PROGRESS, {"identity": self.identity, "state": state()})
            self._saved_at = time.monotonic()


@contextmanager
def staged(out: Path, identity: dict[str, Any] | None) -> Iterator[Staging]:
    """Yields a folder to fill, which becomes `out` at the end.

    `identity` describes the work in JSON; None: it cannot be continued. An exception removes the folder, except for
    the death of a worker; a signal leaves the folder, and so does a kill.

    Raises:
        InputError: `out` exists and is not an empty folder, or another process is at work on it.
    """
    out = out.resolve()
    if not out.name:
        raise InputError(f"{out}: cannot be made; name a folder in it")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: already exists; choose another folder or remove it")
    staging = Staging(out.with_name(f".{out.name}.partial"), identity)
    folder = staging.folder
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as lock:
        try:
            lock.enter_context(locked(folder / ".lock", wait_s=0))
        except BlockingIOError:
            raise InputError(f"{out}: another process is making it; wait, or choose another folder") from None
        with suppress(InputError, TypeError, KeyError):
            found = read_json(folder / _PROGRESS)
            if identity is not None and found["identity"] == identity:
                staging.saved = found["state"]
        for entry in () if staging.saved else folder.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != ".lock":
                entry.unlink()
        try:
            yield staging
        except BaseException as error:
            if identity is None or (isinstance(error, Exception) and not isinstance(error, ChildProcessError)):
                shutil.rmtree(folder, ignore_errors=True)
            raise
        for name in (_PROGRESS, ".lock"):
            (folder / name).unlink(missing_ok=True)
        reveal(folder, out)
