"""What progress shows where there is no terminal: a line now and then, with the pace and the time that is left."""

import time

import pytest

from anybatch import progress
from anybatch.progress import PlainProgress, SilentProgress, show_passes


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(time, "monotonic", found.monotonic)
    return found


def test_a_line_every_ten_seconds_says_how_long_it_will_take(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    task = PlainProgress().task("training", 1000, done=100)
    for second, done in ((5, 150), (10, 200), (12, 220), (20, 300)):
        clock.now = 100 + second
        task.advance(done, "loss 2")
    task.end()
    assert capsys.readouterr().err.splitlines() == [
        "training",
        "training: 200 of 1,000, 10/s, 1 min 20 s left, loss 2",
        "training: 300 of 1,000, 10/s, 1 min 10 s left, loss 2",
    ]


def test_a_task_that_stands_still_has_no_pace(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    task = PlainProgress().task("reading", 10)
    clock.now += 11
    task.advance(0, "")
    assert capsys.readouterr().err.splitlines()[-1] == "reading: 0 of 10, "


def test_a_pass_is_shown_once_it_takes_longer_than_a_moment(clock: Clock) -> None:
    shown: list[tuple[str, int, int]] = []

    class Noted(SilentProgress):
        def task(self, title: str, total: int, done: int = 0) -> "Noted":
            shown.append((title, total, done))
            return self

        def advance(self, done: int, note: str) -> None:
            shown.append((note, done, 0))

    tell = show_passes(Noted())
    tell("reading", 1, 10, 100)
    tell("tokens", 1, 10, 100)
    clock.now += progress._SHOWN_AFTER_S
    tell("tokens", 5, 50, 100)
    assert shown == [("tokens (bytes)", 100, 50), ("5 documents", 50, 0)]
