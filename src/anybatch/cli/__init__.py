"""The command line: arguments in, exit codes out; no logic.

Exit codes: 0 done, 1 failed, 2 the input is wrong, 75 stopped on request and resumable.
"""

import errno  # noqa: I001  (commands register in the order in which `anybatch --help` lists them)
import io
import os
import signal
import sys
from types import FrameType

import typer

from anybatch.cli import running, data, deciding, machine

from anybatch.cli.app import app
from anybatch.errors import Elsewhere, Failed, InputError, Stopped

__all__ = ["app", "data", "deciding", "machine", "main", "running"]


def main() -> None:
    """Runs the command line and ends the process with its exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGUSR1, _warned)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        # Typer turns Ctrl-C into the exit code 130, which it returns.
        if app(sys.argv[1:] or ["--help"], standalone_mode=False) == 130:
            raise KeyboardInterrupt
    except typer.TyperException as error:
        _fail(getattr(error, "format_message", error.__str__)(), 2)
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted", 130)
    except InputError as error:
        _fail(str(error), 2)
    except Stopped as stop:
        _fail(str(stop), 75)
    except Failed as error:
        _fail(str(error), 1)
    except Elsewhere as told:
        sys.exit(told.code)
    except BrokenPipeError:
        # The reader of our output has gone: nothing is left to say, not even at interpreter exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        advice = "; free some space and run it again, a run with --resume" if error.errno == errno.ENOSPC else ""
        _fail((f"{error.filename}: {error.strerror}" if error.filename else str(error)) + advice, 1)


def _terminated(number: int, frame: FrameType | None) -> None:
    """Outside training, where a run is saved first, SIGTERM ends a command at once, but cleans up."""
    _fail(f"ended by {signal.Signals(number).name}", 128 + number)


def _warned(number: int, frame: FrameType | None) -> None:
    """A scheduler's warning outside training: nothing is there to save yet, and the same command can be given again."""
    _fail(f"{signal.Signals(number).name} before training began; give the same command again", 75)


def _fail(message: str, code: int) -> None:
    print(f"anybatch: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
