"""A thread that watches one rank: whether it makes progress, whether the others live, and the first failure.

Ranks meet in the store of their launcher. Each counts up a number there. The first rank that fails writes the cause,
and all others end with it. No rank waits for ever: a lost rank is noticed after 25 s, a hanging one after
`hang_timeout_s`, and a rank that then does not end by itself is ended.
"""

import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anybatch.process import orphaned, supervised, tell_supervisor

_PERIOD_S = 1.0
_LOST_AFTER_S = 25.0
# A waiting rank gives the rank that it waits for time to report the reason.
_PATIENCE_S = 10.0
_CAUSE = "anybatch/cause"


@dataclass(frozen=True)
class Cause:
    """The first cause of the end, its rank, and the exit code that follows; `lost`: a rank that could not report."""

    message: str
    rank: int
    code: int
    lost: bool = False


class Watch:
    """Watches the main thread of rank `rank`; without a `store`, there are no others to watch."""

    def __init__(self, rank: int = 0, size: int = 1, store: Any = None, hang_timeout_s: float = 600.0) -> None:
        self._rank, self._size, self._store = rank, size, store
        self._hang_timeout_s = hang_timeout_s
        self._awake_s = 0.0
        self._mark: tuple[float, str, bool] | None = None
        self._unhurried = False
        self._seen: dict[int, tuple[bytes, float]] = {}
        self._cause: Cause | None = None
        self._ending_since: float | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="anybatch-watch", daemon=True)
        self.folder: Path | None = None
        self.on_failure: Callable[[str], None] | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    def doing(self, what: str, waiting: bool = False) -> None:
        """Records that the main thread is at `what`, waiting for other ranks or not; it must leave `what` in time."""
        if not self._unhurried:
            self._mark = self._awake_s, what, waiting

    @contextmanager
    def unhurried(self) -> Iterator[None]:
        """A block that may take any time, such as preparing data."""
        before, self._unhurried, self._mark = self._unhurried, True, None
        try:
            yield
        finally:
            self._unhurried = before

    def failed(self, message: str, code: int, lost_contact: bool = False) -> Cause:
        """Records that this rank ends with `message`; returns the first cause, which is recorded once.

        If contact was lost, the rank that caused it gets a moment to report.
        """
        if self._cause is None:
            self._ending_since = time.monotonic()
            deadline = time.monotonic() + 3.0
            while lost_contact and self._told() is None and time.monotonic() < deadline:
                time.sleep(0.1)
            self._conclude(Cause(message, self._rank, code, lost_contact))
        assert self._cause is not None
        return self._cause

    def _conclude(self, mine: Cause) -> None:
        self._cause = self._told(mine) or mine
        tell_supervisor(self._cause.code, self._cause.message, not self._cause.lost)
        if self.on_failure is not None and (self._cause.rank == self._rank or self._rank == 0):
            # If the failure is a full disk, it cannot be written down either.
            with suppress(OSError):
                self.on_failure(self._cause.message)

    def _told(self, mine: Cause | None = None) -> Cause | None:
        """Returns the cause in the store, after writing `mine` if there is none; None if the store is gone, too."""
        if self._store is None:
            return None
        try:
            if mine is None:
                told = self._store.get(_CAUSE) if self._store.check([_CAUSE]) else b""
            else:
                told = self._store.compare_set(_CAUSE, "", json.dumps(asdict(mine)))
        # The store ends with its host, which a failing run may have lost.
        except Exception:
            return None
        return Cause(**json.loads(told)) if told else None

    def _run(self) -> None:
        looked = time.monotonic()
        while not self._done.wait(_PERIOD_S):
            now = time.monotonic()
            # Time while this process was stopped (SIGTSTP), or its machine asleep, does not count.
            self._awake_s += min(now - looked, 2 * _PERIOD_S)
            looked = now
            if self._ending_since is not None:
                if time.monotonic() - self._ending_since > _PATIENCE_S:
                    os._exit(self._cause.code if self._cause else 1)
                continue
            if standstill := self._standstill():
                self._conclude(Cause(standstill, self._rank, 1))
                self._end()
            elif missing := self._missing():
                self._conclude(Cause(missing, self._rank, 1, lost=True))
                self._end()
            elif (told := self._told()) is not None:
                # The main thread learns it from its broken connections, unless it is stuck in one of them.
                if self._done.wait(_PATIENCE_S / 2) or self._ending_since is not None:
                    continue
                self._conclude(told)
                self._end()

    def _standstill(self) -> str | None:
        mark = self._mark
        if mark is None:
            return None
        since, what, waiting = mark
        if self._awake_s - since <= self._hang_timeout_s + (_PATIENCE_S if waiting else 0.0):
            return None
        where = f"; where it stood is in {self._stacks_file}" if self.folder is not None else ""
        return f"rank {self._rank}: no progress for {self._hang_timeout_s:g} s, {what}{where}"

    def _missing(self) -> str | None:
        """Returns a missing rank: rank 0 checks all others, and they check rank 0."""
        # The store ends with a supervisor that is killed, and the ranks then save.
        if self._store is None or orphaned():
            return None
        now = self._awake_s
        others = range(1, self._size) if self._rank == 0 else [0]
        keys = [f"anybatch/alive/{rank}" for rank in others]
        try:
            self._store.set(f"anybatch/alive/{self._rank}", str(time.monotonic()))
            # For a key that nobody has set yet, a store waits.
            found = self._store.multi_get(keys) if self._store.check(keys) else None
        except Exception:
            found = None
        for place, rank in enumerate(others):
            before = self._seen.get(rank, (b"", 0.0))
            if found is not None and found[place] != before[0]:
                self._seen[rank] = found[place], now
            # All ranks have met by now, so one may be lost before its first sign of life.
            elif now - before[1] > _LOST_AFTER_S:
                return f"rank {rank} has given no sign of life for {_LOST_AFTER_S:g} s; its process or machine is lost"
        return None

    @property
    def _stacks_file(self) -> Path:
        assert self.folder is not None
        return self.folder / f"stacks-rank{self._rank}.txt"

    def _end(self) -> None:
        """Ends the process from this thread: the main thread cannot."""
        assert self._cause is not None
        if self.folder is not None:
            with suppress(OSError), open(self._stacks_file, "w", encoding="utf-8") as file:
                faulthandler.dump_traceback(file, all_threads=True)
        if self._cause.rank == self._rank and not supervised():
            print(f"\nanybatch: error: {self._cause.message}", file=sys.stderr, flush=True)
        os._exit(self._cause.code)
