"""The command line: arguments in, exit codes out; no logic.

Exit codes: 0 done; 1 failed; 2 the input is wrong; 75 stopped on request and resumable; 130 interrupted, 143 and 129
ended by SIGTERM and SIGHUP, with nothing to go on from.
"""

import errno  # noqa: I001  (commands register in the order in which `anybatch --help` lists them)
import io
import os
import signal
import sys
import threading
import traceback
from contextlib import nullcontext, suppress
from typing import Any

import typer

from anybatch.cli import running, data, deciding, machine

from anybatch.cli.app import app, command_of
from anybatch.errors import Elsewhere, Failed, InputError, Stopped
from anybatch.files import named_errors, told
from anybatch.process import decide, end_of, is_rank, listening, masked, say_error

__all__ = ["app", "data", "deciding", "machine", "main", "running"]

_FULL = (errno.ENOSPC, errno.EDQUOT)
# Commands that go on where they were, and how they are asked to.
_GOES_ON = {"train": "the same command with --resume goes on", "study": "the same command goes on"}
_GOES_ON["demo"] = _GOES_ON["data"] = _GOES_ON["study"]


def main() -> None:
    """Runs the command line and ends the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    signals = _Signals()
    hook = sys.unraisablehook
    try:
        # A rank has no command of its own to end: until it can be asked to stop, a signal ends it at once.
        with nullcontext() if is_rank() else listening(signals.heard):
            sys.unraisablehook = signals.unraisable
            try:
                code, message = _run(sys.argv[1:] or ["--help"])
            except BaseException as error:
                code, message = _end(error, signals)
            decide(code)
    finally:
        sys.unraisablehook = hook
    if message:
        say_error(message)
    _flush()
    if code:
        sys.exit(code)


class _Signals:
    """What asks a command to end outside training, where a run is saved first: it ends at once, but cleans up.

    Code on the way may turn the interrupt into another error, or drop it, such as a library while it is imported; so
    the first signal is remembered, and sent again where it was dropped.
    """

    def __init__(self) -> None:
        self.first: int | None = None

    def heard(self, number: int) -> None:
        self.first = self.first or number
        raise KeyboardInterrupt

    def unraisable(self, dropped: Any) -> None:
        if self.first is None or not issubclass(dropped.exc_type, KeyboardInterrupt):
            sys.__unraisablehook__(dropped)
            return
        again = threading.Timer(0.01, os.kill, [os.getpid(), self.first])
        again.daemon = True
        again.start()


def _run(arguments: list[str]) -> tuple[int, str]:
    code = app(arguments, standalone_mode=False)
    # What could not be printed is a failure, and must show before the interpreter ends.
    with named_errors("standard output"):
        sys.stdout.flush()
    # Typer returns the code of a typer.Exit, and that of an interrupt.
    if code == 130:
        raise KeyboardInterrupt
    return (code if isinstance(code, int) else 0), ""


def _end(error: BaseException, signals: _Signals) -> tuple[int, str]:
    """The exit code that `error` means, and what is said; of a defect of the program, its traceback."""
    if isinstance(error, Stopped):
        return 75, str(error)
    if isinstance(error, Elsewhere):
        return error.code, ""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None), ""
    if signals.first is not None or isinstance(error, typer.Abort | KeyboardInterrupt):
        return end_of(signals.first or signal.SIGINT)
    if isinstance(error, typer.TyperException):
        return 2, getattr(error, "format_message", error.__str__)()
    if isinstance(error, InputError):
        return 2, str(error)
    if isinstance(error, Failed):
        return 1, str(error)
    if isinstance(error, BrokenPipeError):
        # The reader of our output has gone: nothing is left to say.
        return 1, ""
    if isinstance(error, OSError):
        return 1, told(error) + _advice(error)
    # A defect of the program. Nothing that it says holds a password.
    sys.stderr.write(masked("".join(traceback.format_exception(error))))
    return 1, ""


def _advice(error: OSError) -> str:
    """What helps, with no option that the command lacks."""
    if error.errno in _FULL:
        return f"; free some space, and {_GOES_ON.get(command_of() or '', 'give the same command again')}"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return "; choose a place that can be written, or change its permissions"
    return "; choose a shorter name" if error.errno == errno.ENAMETOOLONG else ""


def _flush() -> None:
    """Writes what was printed; where that fails, the interpreter must not try again, and change the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
