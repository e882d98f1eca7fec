"""A process among others: what asks it to end, with which exit code, and what it says to the world."""

import os
import re
import signal
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any
from urllib.parse import unquote

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


# Where a URL, or what looks like one, holds a password: to the last @ of the word, and in its query.
_PASSWORDS = (
    (re.compile(r"(:/+[^\s:/@]*:)\S*@"), r"\1***@"),
    (re.compile(r"((?:password|passwd|pwd)\s*=\s*)[^\s&;'\"]+", re.I), r"\1***"),
)
_secrets: set[str] = set()


def keep_secret(url: str) -> None:
    """The password in `url` is masked from now on, also where it stands by itself or in part."""
    found = re.search(r":/+[^:/@]*:(.*)@", url) or re.search(r"password=([^&]+)", url)
    if found:
        whole = {found[1], unquote(found[1])}
        _secrets.update(part for secret in whole for part in (secret, *secret.split("@")) if len(part) > 2)


def masked(text: str) -> str:
    """`text` without the passwords that are in it."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    for pattern, shown in _PASSWORDS:
        text = pattern.sub(shown, text)
    return text


_decided: list[int] = []


def decide(code: int) -> None:
    """The command is over and ends with `code`, whatever it is sent from now on."""
    _decided.append(code)


@contextmanager
def deaf() -> Iterator[None]:
    """A block in which what asks for an end waits; a process that is started in it goes on being deaf."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_at_once(number: int) -> None:
    """Ends the process, where there is nothing yet to clean up or nothing more: in one line, or as decided."""
    code, message = end_of(number)
    if not _decided:
        say_error(message)
    os._exit(_decided[-1] if _decided else code)


def say_error(message: str) -> None:
    """One line on standard error, where there is still somebody to read it."""
    with suppress(OSError, ValueError):
        print(f"anybatch: error: {masked(' '.join(message.split()))}", file=sys.stderr, flush=True)


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
