"""Shows what is running, how fast, and how long it will take: live bars in a terminal, plain lines elsewhere."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from anybatch.numbers import duration

if TYPE_CHECKING:
    from rich.progress import Progress as Bars


# A pass over files that is quicker shows nothing.
_SHOWN_AFTER_S = 3.0

# (pass over the data, documents done in it, bytes of the sources read, bytes in all)
PassReport = Callable[[str, int, int, int], None]


class Task(Protocol):
    """One piece of work under way; `done` counts examples."""

    def advance(self, done: int, note: str) -> None: ...
    def end(self) -> None: ...


class Progress(Protocol):
    """A display: `task` shows a piece of work of `total` examples, `say` prints a line."""

    def task(self, title: str, total: int, done: int = 0) -> Task: ...
    def say(self, line: str) -> None: ...


class SilentProgress:
    """Shows nothing, for callers without a display."""

    def task(self, title: str, total: int, done: int = 0) -> Task:
        return self

    def advance(self, done: int, note: str) -> None: ...
    def end(self) -> None: ...
    def say(self, line: str) -> None: ...


class PlainProgress:
    """Prints a line at the start of each piece of work, and one every `interval_s` seconds, on standard error."""

    def __init__(self, interval_s: float = 10.0) -> None:
        self.interval_s = interval_s

    def task(self, title: str, total: int, done: int = 0) -> Task:
        self.say(title)
        return _PlainTask(self, title, total, done)

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class _PlainTask:
    def __init__(self, display: PlainProgress, title: str, total: int, done: int) -> None:
        self._display, self._title, self._total, self._first = display, title, total, done
        self._started = self._printed = time.monotonic()

    def advance(self, done: int, note: str) -> None:
        now = time.monotonic()
        if now - self._printed < self._display.interval_s:
            return
        self._printed = now
        rate = (done - self._first) / (now - self._started)
        # A pass may have begun before it was shown, with no progress since.
        pace = f"{rate:,.0f}/s, {duration((self._total - done) / rate)} left, " if rate > 0 else ""
        self._display.say(f"{self._title}: {done:,} of {self._total:,}, {pace}{note}")

    def end(self) -> None: ...


class LiveProgress:
    """A bar for each piece of work under way."""

    def __init__(self, bars: "Bars") -> None:
        self._bars = bars

    def task(self, title: str, total: int, done: int = 0) -> Task:
        return _LiveTask(self._bars, title, total, done)

    def say(self, line: str) -> None:
        self._bars.console.print(line, markup=False, highlight=False)


class _LiveTask:
    def __init__(self, bars: "Bars", title: str, total: int, done: int) -> None:
        self._bars, self._first, self._started = bars, done, time.monotonic()
        self._task = bars.add_task(title, total=total, completed=done, note="")

    def advance(self, done: int, note: str) -> None:
        rate = (done - self._first) / max(time.monotonic() - self._started, 1e-9)
        self._bars.update(self._task, completed=done, note=f"{rate:,.0f}/s  {note}")

    def end(self) -> None:
        self._bars.remove_task(self._task)


@contextmanager
def progress_display() -> Iterator[Progress]:
    """Yields the display for standard error: rich's live bars on a terminal, plain lines otherwise; only on rank 0."""
    if os.environ.get("RANK", "0") != "0":
        yield SilentProgress()
        return
    if sys.stderr is None or not sys.stderr.isatty():
        yield PlainProgress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        yield LiveProgress(bars)


def show_passes(progress: Progress) -> PassReport:
    """A function to be told (pass, documents done, bytes read, bytes in all), often; a quick pass shows nothing."""
    current = ""
    started = 0.0
    task: Task | None = None

    def tell(name: str, documents: int, done: int, total: int) -> None:
        nonlocal current, started, task
        if name != current:
            if task is not None:
                task.end()
            current, started, task = name, time.monotonic(), None
        if task is None and time.monotonic() - started >= _SHOWN_AFTER_S:
            task = progress.task(f"{name} (bytes)", total, done)
        if task is not None:
            task.advance(done, f"{documents:,} documents")

    return tell
