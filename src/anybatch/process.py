"""A process among others: which signals ask it to end, its exit code, and what it prints."""

import ctypes
import json
import os
import re
import signal
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any
from urllib.parse import unquote

# Ctrl-C; the end by a scheduler or an administrator; a closed terminal; a scheduler's warning.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
Heard = Callable[[int], None]


def end_of(number: int) -> tuple[int, str]:
    """Returns the exit code and the message for a command that signal `number` ended, with nothing to resume from."""
    if number == signal.SIGINT:
        return 130, "interrupted"
    name = signal.Signals(number).name
    if number == signal.SIGUSR1:
        return 75, f"{name} before training began; give the same command again"
    return 128 + number, f"ended by {name}"


def is_rank() -> bool:
    """Returns whether a launcher such as torchrun started this process, perhaps as one of several."""
    return {"RANK", "WORLD_SIZE"} <= set(os.environ)


# Of a process that engine/supervisor.py has started: the supervisor's number, and the descriptor to tell it by.
SUPERVISOR = "ANYBATCH_SUPERVISOR"


def supervised() -> bool:
    """Returns whether a supervisor started this process, and will report how it ended."""
    return SUPERVISOR in os.environ


def tell_supervisor(code: int | None = None, message: str = "", is_cause: bool = True) -> None:
    """Tells the supervisor, if there is one, that this rank has begun, or with `code` how it ends and why.

    A rank that has begun is asked to save and stop; another one is ended. `is_cause` is False if the message is only
    that another rank is lost.
    """
    if supervised():
        told = {} if code is None else {"code": code, "message": message, "is_cause": is_cause}
        os.write(int(os.environ[SUPERVISOR].partition(":")[2]), json.dumps(told).encode() + b"\n")


def orphaned() -> bool:
    """Returns whether the supervisor of this process is gone; only a kill does this, since it outlives its ranks."""
    return supervised() and os.getppid() != int(os.environ[SUPERVISOR].partition(":")[0])


def end_with_supervisor() -> None:
    """Starts a thread that sends this process a SIGTERM once its supervisor is gone."""

    def watch() -> None:
        while not orphaned():
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="anybatch-orphan", daemon=True).start()


def listen(heard: Heard) -> dict[int, Any]:
    """Calls `heard` with the number of each signal that asks for an end; returns the previous handlers.

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


# The parts of a URL, or of what looks like one, that hold a password: up to the last @ of the word, and in the query.
_PASSWORDS = (
    (re.compile(r"(:/+[^\s:/@]*:)\S*@"), r"\1***@"),
    (re.compile(r"((?:password|passwd|pwd)\s*=\s*)[^\s&;'\"]+", re.I), r"\1***"),
)
_secrets: set[str] = set()


def keep_secret(url: str) -> None:
    """Masks the password in `url` from now on, also if it appears separately or in part."""
    found = re.search(r":/+[^:/@]*:(.*)@", url) or re.search(r"password=([^&]+)", url)
    if found:
        whole = {found[1], unquote(found[1])}
        _secrets.update(part for secret in whole for part in (secret, *secret.split("@")) if len(part) > 2)


def masked(text: str) -> str:
    """Returns `text` without its passwords."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    for pattern, shown in _PASSWORDS:
        text = pattern.sub(shown, text)
    return text


_decided: list[int] = []


def decide(code: int) -> None:
    """Declares the command over: it ends with `code`, whatever signal follows."""
    _decided.append(code)


@contextmanager
def deaf() -> Iterator[None]:
    """A block in which signals that ask for an end wait; a process started in it also holds them back."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_at_once(number: int) -> None:
    """Ends the process when nothing needs cleaning up: with one line, or with the code that `decide` set."""
    code, message = end_of(number)
    if not _decided:
        say_error(message)
    os._exit(_decided[-1] if _decided else code)


def say_error(message: str) -> None:
    """Prints one line on standard error, if it can still be written."""
    with suppress(OSError, ValueError):
        print(f"anybatch: error: {masked(' '.join(message.split()))}", file=sys.stderr, flush=True)


def _let_go_of_terminal() -> None:
    """If the terminal is gone, discards what is printed instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            descriptor = stream.fileno()
            try:
                termios.tcgetattr(descriptor)
            except termios.error as error:
                if error.args[0] == 5:  # EIO: a terminal once, and hung up
                    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def die_with_parent() -> None:
    """Has the system kill this process as soon as its parent is gone, however that ends; on Linux."""
    if sys.platform == "linux":
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
