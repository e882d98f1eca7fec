"""Supervises a run on several processes of this machine: starts torchrun, asks it to stop, and restarts it.

torchrun returns 1 whatever its workers return, and ends them 30 seconds after a signal, saved or not. So the ranks
write their process numbers and their outcome into a separate folder. The supervisor signals them directly, and knows
the first error.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anybatch.engine import outcomes
from anybatch.errors import Failed, InputError, Stopped
from anybatch.files import read_object, write_json
from anybatch.process import listening
from anybatch.progress import PlainProgress

# The time that torchrun has to end after its ranks.
_GRACE_S = 5.0


@dataclass(frozen=True)
class _End:
    """The end of an attempt: an exit code of ours, and the reason."""

    code: int
    message: str


def supervise(
    arguments: Sequence[str], num_processes: int, num_relaunches: int, recipe: Mapping[str, Any] | None = None
) -> None:
    """Runs `anybatch ARGUMENTS` on `num_processes` ranks until it is done; after a crash, again with --resume.

    Args:
        num_relaunches: the largest number of restarts after failures that are not the user's.
        recipe: what the command is about, in JSON: the ranks find it in a file that is the command's first argument.

    Raises:
        Stopped: a signal asked for it. The ranks were asked to save and stop, and have ended.
        InputError, Failed: the message of the first rank that failed, at the last attempt.
        KeyboardInterrupt: a second Ctrl-C; the ranks were ended at once.
    """
    signals = _Signals()
    with listening(signals.heard):
        for attempt in range(num_relaunches + 1):
            end = _attempt(arguments if not attempt else _resuming(arguments), num_processes, signals, recipe)
            if end.code == 0:
                return
            if end.code == 2:
                raise InputError(end.message)
            if end.code == 75 or signals.asked:
                raise Stopped(
                    end.message if end.code == 75 else f"{signals.asked}; --resume continues from what is saved"
                )
            if attempt < num_relaunches:
                PlainProgress().say(f"{end.message}; starting again ({attempt + 1} of {num_relaunches})")
    raise Failed(end.message)


class _Signals:
    """Passes this process's signals on to the ranks; a second Ctrl-C ends them."""

    def __init__(self) -> None:
        self.asked: str | None = None
        self._number = 0
        self._run: tuple[Path, subprocess.Popen[bytes]] | None = None

    def heard(self, number: int) -> None:
        if self.asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._number = number
        self.asked = self.asked or signal.Signals(number).name
        self._pass_on()

    @contextmanager
    def passed_to(self, folder: Path, launcher: "subprocess.Popen[bytes]") -> Iterator[None]:
        """A block during which signals are passed on; an earlier signal is passed on now."""
        self._run = folder, launcher
        try:
            if self.asked is not None:
                self._pass_on()
            yield
        finally:
            self._run = None

    def _pass_on(self) -> None:
        if self._run is None:
            return
        folder, launcher = self._run
        told = outcomes.read(folder)
        for rank in told.values():
            if "code" not in rank:
                with suppress(ProcessLookupError):
                    os.kill(rank["process"], self._number)
        if not told:
            # No rank has begun: there is nothing to save.
            launcher.terminate()


def _attempt(arguments: Sequence[str], num_processes: int, signals: _Signals, recipe: Mapping[str, Any] | None) -> _End:
    if signals.asked is not None:
        return _End(75, f"{signals.asked} before training began; --resume begins it")
    with (
        tempfile.TemporaryDirectory(prefix="anybatch-", ignore_cleanup_errors=True) as name,
        outcomes.supervising(Path(name)),
        _launched(_about(arguments, recipe, Path(name)), num_processes, Path(name)) as run,
    ):
        with signals.passed_to(Path(name), run):
            code = run.wait()
        return _end(code, Path(name), num_processes)


@contextmanager
def _launched(arguments: Sequence[str], num_processes: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Starts torchrun with its ranks; ends what is left of them at the end of the block."""
    torchrun = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={num_processes}", "--max-restarts=0"]
    # Without the two dashes, torchrun reads our --run as an abbreviation of a torchrun option.
    command = [
        sys.executable,
        "-m",
        "anybatch.engine.launcher",
        str(folder),
        *torchrun,
        "-m",
        "--",
        "anybatch",
        *arguments,
    ]
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_processes)))
    environment = {**os.environ, outcomes.FOLDER_VARIABLE: str(folder), "OMP_NUM_THREADS": threads}
    # A separate session: we pass on a Ctrl-C in the terminal.
    run = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        yield run
    finally:
        left = {rank["process"] for rank in outcomes.read(folder).values()} & set(outcomes.processes(folder))
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        run.terminate()
        try:
            run.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            run.kill()
            run.wait()
        # A remaining process had not begun, or a rank started it.
        for process in outcomes.processes(folder):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def _end(code: int, folder: Path, num_processes: int) -> _End:
    told = outcomes.read(folder)
    # A rank that has recorded its success may still be ended during the interpreter's shutdown.
    if code == 0 or (len(told) == num_processes and all(rank.get("code") == 0 for rank in told.values())):
        return _End(0, "")
    ended = [rank for rank in told.values() if rank.get("code")]
    for rank in ended:
        if rank["is_cause"]:
            return _End(rank["code"], rank["message"])
    failures = read_object(folder / outcomes.FAILURES) if (folder / outcomes.FAILURES).is_file() else {}
    for name, failure in failures.items():
        # torchrun ends the others by SIGTERM; a rank that ended by itself wrote its outcome.
        if failure < 0 and -failure != signal.SIGTERM and "code" not in told.get(int(name), {}):
            advice = "; the system does that where memory runs out" if -failure == signal.SIGKILL else ""
            return _End(1, f"rank {name} was ended by {signal.Signals(-failure).name}{advice}")
    if ended:
        return _End(ended[0]["code"], ended[0]["message"])
    return _End(1, f"none of the {num_processes} processes could be started; torchrun ended with {code}")


def _about(arguments: Sequence[str], recipe: Mapping[str, Any] | None, folder: Path) -> list[str]:
    """The arguments, with the file of the recipe after the command's name."""
    if recipe is None:
        return list(arguments)
    write_json(folder / "recipe.json", recipe)
    return [arguments[0], str(folder / "recipe.json"), *arguments[1:]]


def _resuming(arguments: Sequence[str]) -> list[str]:
    return [*arguments, *(["--resume"] if "--resume" not in arguments else [])]
