"""`anybatch`, `python -m anybatch` and `torchrun -m anybatch`."""

import atexit
import os
import signal
import sys

from anybatch.process import end_with_supervisor, is_rank, leave_at_once, listen, supervised

# The exit codes of a command that was asked to end.
_ASKED = (75, 129, 130, 143)


def start() -> None:
    """Runs the command line; if the installation lacks a package, prints the command that installs it."""
    listen(leave_at_once)
    if is_rank():
        # A rank that has not met the others has nothing to save, and its launcher informs the user: the rank ends at
        # once, also if it waits outside Python.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
    if supervised():
        end_with_supervisor()
    try:
        from anybatch.cli import main
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "anybatch":
            raise
        why = f"the command line needs {error.name}, which is not installed: pip install 'anybatch[train]'"
        print(f"anybatch: error: {why}", file=sys.stderr)
        raise SystemExit(2) from None
    try:
        main()
    finally:
        ended = sys.exc_info()[1]
        if is_rank() or (isinstance(ended, SystemExit) and ended.code in _ASKED):
            _leave(ended)


def _leave(error: BaseException | None) -> None:
    """Ends the process without shutting the interpreter down, which may change the exit code.

    Threads of gloo may abort a rank. After an interrupt inside an exec(), Python ends itself by SIGINT.
    """
    if error is not None and not isinstance(error, SystemExit):
        return
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    code = error.code if error is not None else 0
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    start()
