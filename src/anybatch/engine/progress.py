"""What is running, how fast, and how long it will take: a live bar in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """`begin` names a piece of work of `total` examples, `advance` tells how far it is, `say` prints a line."""

    def begin(self, title: str, total: int, done: int = 0) -> None: ...
    def advance(self, done: int, note: str) -> None: ...
    def say(self, line: str) -> None: ...


class SilentProgress:
    """Shows nothing; what a caller without a display gets."""

    def begin(self, title: str, total: int, done: int = 0) -> None: ...
    def advance(self, done: int, note: str) -> None: ...
    def say(self, line: str) -> None: ...


class PlainProgress:
    """A line at the start of each piece of work and one every `interval_s` seconds, on standard error."""

    def __init__(self, interval_s: float = 10.0) -> None:
        self._interval_s = interval_s

    def begin(self, title: str, total: int, done: int = 0) -> None:
        self._title, self._total, self._first = title, total, done
        self._started = self._printed = time.monotonic()
        self.say(title)

    def advance(self, done: int, note: str) -> None:
        now = time.monotonic()
        if now - self._printed < self._interval_s:
            return
        self._printed = now
        rate = (done - self._first) / (now - self._started)
        left_s = (self._total - done) / rate if rate else 0.0
        self.say(f"{self._title}: {done:,} of {self._total:,}, {rate:,.0f}/s, {_clock(left_s)} left, {note}")

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


@contextmanager
def progress_display() -> Iterator[Progress]:
    """The display that fits standard error: rich's live bar on a terminal, `PlainProgress` otherwise."""
    if not sys.stderr.isatty():
        yield PlainProgress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    class LiveProgress:
        def __init__(self, bars: Bars) -> None:
            self._bars = bars
            self._task = bars.add_task("", total=None, visible=False)

        def begin(self, title: str, total: int, done: int = 0) -> None:
            self._bars.remove_task(self._task)
            self._task = self._bars.add_task(title, total=total, completed=done, note="")
            self._first, self._started = done, time.monotonic()

        def advance(self, done: int, note: str) -> None:
            rate = (done - self._first) / max(time.monotonic() - self._started, 1e-9)
            self._bars.update(self._task, completed=done, note=f"{rate:,.0f}/s  {note}")

        def say(self, line: str) -> None:
            self._bars.console.print(line, markup=False, highlight=False)

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        yield LiveProgress(bars)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
