"""The command line: arguments in, exit codes out; no logic.

Exit codes: 0 done; 1 failed; 2 the input is wrong; 75 stopped on request and resumable; 130 interrupted, 143 and 129
ended by SIGTERM and SIGHUP, with nothing to resume from.
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
# Commands that can continue, and how.
_CONTINUED = {"train": "run the same command with --resume to continue", "study": "run the same command to continue"}
_CONTINUED["demo"] = _CONTINUED["data"] = _CONTINUED["study"]


def main() -> None:
    """Runs the command line and ends the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    signals = _Signals()
    hook = sys.unraisablehook
    try:
        # A rank is not the user's command: a signal ends it at once, until training listens for it.
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
    """The signals that end a command: it ends at once, but cleans up. Training handles them itself: it saves the run.

    Other code may turn the interrupt into another error, or drop it, such as a library during its import. So the first
    signal is remembered, and sent again if it was dropped.
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
    # If the output cannot be written, the command has failed, and must say so before the interpreter ends.
    with named_errors("standard output"):
        sys.stdout.flush()
    # Typer returns the code of a typer.Exit, and that of an interrupt.
    if code == 130:
        raise KeyboardInterrupt
    return (code if isinstance(code, int) else 0), ""


def _end(error: BaseException, signals: _Signals) -> tuple[int, str]:
    """Returns the exit code and the message for `error`; prints the traceback of a defect of the program."""
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
        # The reader of our output is gone: there is nothing to print.
        return 1, ""
    if isinstance(error, OSError):
        return 1, told(error) + _advice(error)
    # A defect of the program. Passwords are masked in its traceback.
    sys.stderr.write(masked("".join(traceback.format_exception(error))))
    return 1, ""


def _advice(error: OSError) -> str:
    """Returns a remedy that names only options of this command."""
    if error.errno in _FULL:
        return f"; free some space, and {_CONTINUED.get(command_of() or '', 'run the same command again')}"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return "; choose a place that can be written, or change its permissions"
    return "; choose a shorter name" if error.errno == errno.ENAMETOOLONG else ""


def _flush() -> None:
    """Writes what was printed; if it fails, keeps the interpreter from trying again, which changes the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
