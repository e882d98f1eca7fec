"""An unfinished folder beside its final place: continued after a kill, shown whole or not at all."""

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from anybatch.errors import InputError
from anybatch.files import locked, read_json, reveal, write_json

_PROGRESS = "progress.json"
_SAVED_EVERY_S = 5.0


class Staging:
    """`with Staging(out, identity) as staging`: `staging.folder` is filled, and becomes `out` at the end.

    `identity` describes the work in JSON. If a killed process left the same work unfinished, `saved` is its last
    argument of `save`. None: the work cannot be continued. An exception removes the folder, except for the death of a
    worker; a signal leaves the folder, and so does a kill.

    Raises:
        InputError: `out` exists and is not an empty folder, or another process is at work on it.
    """

    def __init__(self, out: Path, identity: dict[str, Any] | None) -> None:
        self._out = out.resolve()
        if not self._out.name:
            raise InputError(f"{self._out}: cannot be made; name a folder in it")
        self._identity = identity
        self.folder = self._out.with_name(f".{self._out.name}.partial")
        self.saved: dict[str, Any] = {}
        self._lock = ExitStack()
        self._saved_at = time.monotonic()

    def __enter__(self) -> "Staging":
        if self._out.exists() and (not self._out.is_dir() or any(self._out.iterdir())):
            raise InputError(f"{self._out}: already exists; choose another folder or remove it")
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.enter_context(locked(self.folder / ".lock", wait_s=0))
        except BlockingIOError:
            raise InputError(f"{self._out}: another process is making it; wait, or choose another folder") from None
        try:
            found = read_json(self.folder / _PROGRESS)
            if self._identity is not None and found["identity"] == self._identity:
                self.saved = found["state"]
        except (InputError, TypeError, KeyError):
            pass
        if not self.saved:
            for entry in self.folder.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry)
                elif entry.name != ".lock":
                    entry.unlink()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                for name in (_PROGRESS, ".lock"):
                    (self.folder / name).unlink(missing_ok=True)
                reveal(self.folder, self._out)
            elif self._identity is None or (isinstance(error, Exception) and not isinstance(error, ChildProcessError)):
                shutil.rmtree(self.folder, ignore_errors=True)
        finally:
            self._lock.close()

    def save(self, state: Callable[[], dict[str, Any]], *, now: bool = False) -> None:
        """Saves the result of `state`, every few seconds."""
        if self._identity is not None and (now or time.monotonic() - self._saved_at >= _SAVED_EVERY_S):
            write_json(self.folder / _PROGRESS, {"identity": self._identity, "state": state()})
            self._saved_at = time.monotonic()
