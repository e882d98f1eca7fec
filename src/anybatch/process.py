"""A process among others: what asks it to end, and with which exit code."""

import os
import signal
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

# Ctrl-C, a scheduler's or an administrator's end, a terminal that was closed, a scheduler's warning.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
Heard = Callable[[int], None]


def end_of(number: int) -> tuple[int, str]:
    """The exit code, and what is said, where a command is ended by signal `number` with nothing to go on from."""
    if number == signal.SIGINT:
        return 130, "interrupted"
    name = signal.Signals(number).name
    if number == signal.SIGUSR1:
        return 75, f"{name} before training began; give the same command again"
    return 128 + number, f"ended by {name}"


def is_rank() -> bool:
    """Whether a launcher such as torchrun started this process, as one of several perhaps."""
    return {"RANK", "WORLD_SIZE"} <= set(os.environ)


def listen(heard: Heard) -> dict[int, Any]:
    """Calls `heard` with the number of each signal that asks for an end; returns the handlers before.

    A hang-up that is ignored, as under nohup, stays ignored.
    """

    def handler(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _let_go_of_terminal()
        heard(number)

    numbers = [number for number in ENDING if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in numbers}


@contextmanager
def listening(heard: Heard) -> Iterator[None]:
    """`listen` for the length of the block."""
    before = listen(heard)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_decided: list[int] = []


def decide(code: int) -> None:
    """The command is over and ends with `code`, whatever it is sent from now on."""
    _decided.append(code)


def leave_at_once(number: int) -> None:
    """Ends the process, where there is nothing yet to clean up or nothing more: in one line, or as decided."""
    code, message = end_of(number)
    if not _decided:
        say_error(message)
    os._exit(_decided[-1] if _decided else code)


def say_error(message: str) -> None:
    """One line on standard error, where there is still somebody to read it."""
    with suppress(OSError, ValueError):
        print(f"anybatch: error: {' '.join(message.split())}", file=sys.stderr, flush=True)


def _let_go_of_terminal() -> None:
    """Where the terminal is gone, what is printed goes nowhere, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            descriptor = stream.fileno()
            try:
                termios.tcgetattr(descriptor)
            except termios.error as error:
                if error.args[0] == 5:  # EIO: a terminal once, and hung up
                    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
