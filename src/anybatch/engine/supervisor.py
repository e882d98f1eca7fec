"""A run on several processes of this machine, from outside: torchrun is started, asked to stop, and started again.

torchrun returns 1 whatever its workers return, and ends them 30 seconds after a signal, saved or not. So the ranks tell
the supervisor their process numbers and their outcome in a folder of its own: it signals them itself, and knows what
was first.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from anybatch.engine import outcomes
from anybatch.engine.progress import PlainProgress
from anybatch.errors import Failed, InputError, Stopped
from anybatch.files import read_object

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
# How long torchrun has to end once its ranks have.
_GRACE_S = 5.0


@dataclass(frozen=True)
class _End:
    """How an attempt ended: an exit code of ours, and why."""

    code: int
    message: str


def supervise(arguments: Sequence[str], num_processes: int, num_relaunches: int) -> None:
    """Runs `anybatch ARGUMENTS` on `num_processes` ranks until it is done; after a crash, again with --resume.

    Args:
        num_relaunches: how often at most it is started again after a failure that is not the user's.

    Raises:
        Stopped: a signal asked for it. The ranks were asked to save and stop, and have ended.
        InputError, Failed: what the rank that failed first said, at the last attempt.
        KeyboardInterrupt: a second Ctrl-C; the ranks were ended at once.
    """
    with _Signals() as signals:
        for attempt in range(num_relaunches + 1):
            end = _attempt(arguments if not attempt else _resuming(arguments), num_processes, signals)
            if end.code == 0:
                return
            if end.code == 2:
                raise InputError(end.message)
            if end.code == 75 or signals.asked:
                raise Stopped(
                    end.message if end.code == 75 else f"{signals.asked}; --resume goes on from what is saved"
                )
            if attempt < num_relaunches:
                PlainProgress().say(f"{end.message}; starting again ({attempt + 1} of {num_relaunches})")
    raise Failed(end.message)


class _Signals:
    """Passes what this process is sent on to the ranks; a second Ctrl-C ends them."""

    def __init__(self) -> None:
        self.asked: str | None = None
        self.folder: Path | None = None
        self.launcher: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "_Signals":
        self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = self.asked or signal.Signals(number).name
        told = self.tell(number)
        if not told and self.launcher is not None:
            # Nobody has begun: there is nothing to save.
            self.launcher.terminate()

    def tell(self, number: int) -> int:
        """Signals every rank that has told its process and not its end; returns how many."""
        count = 0
        for rank in outcomes.read(self.folder).values() if self.folder is not None else ():
            if "code" not in rank:
                with suppress(ProcessLookupError):
                    os.kill(rank["process"], number)
                    count += 1
        return count


def _attempt(arguments: Sequence[str], num_processes: int, signals: _Signals) -> _End:
    with (
        tempfile.TemporaryDirectory(prefix="anybatch-") as name,
        outcomes.supervising(Path(name)),
        _launched(arguments, num_processes, Path(name)) as run,
    ):
        signals.folder, signals.launcher = Path(name), run
        try:
            code = run.wait()
        finally:
            signals.folder = signals.launcher = None
        return _end(code, Path(name), num_processes)


@contextmanager
def _launched(arguments: Sequence[str], num_processes: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """torchrun with its ranks; whatever is left of them at the end of the block is ended."""
    torchrun = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={num_processes}", "--max-restarts=0"]
    # Without the two dashes, torchrun takes our --run for an abbreviation of an option of its own.
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
    # In a session of its own: a Ctrl-C in the terminal is ours to pass on.
    run = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        yield run
    finally:
        for rank in outcomes.read(folder).values():
            if _is_ours(rank["process"], folder):
                with suppress(ProcessLookupError):
                    os.kill(rank["process"], signal.SIGKILL)
        run.terminate()
        try:
            run.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            run.kill()
            run.wait()


def _is_ours(process: int, folder: Path) -> bool:
    """Whether the process of that number is still the rank that told it, and not another that got its number."""
    try:
        return os.fsencode(folder) in Path(f"/proc/{process}/environ").read_bytes()
    except OSError:
        return False


def _end(code: int, folder: Path, num_processes: int) -> _End:
    if code == 0:
        return _End(0, "")
    told = outcomes.read(folder)
    ended = [rank for rank in told.values() if "code" in rank]
    for rank in ended:
        if rank["is_cause"]:
            return _End(rank["code"], rank["message"])
    failures = read_object(folder / outcomes.FAILURES) if (folder / outcomes.FAILURES).is_file() else {}
    for name, failure in failures.items():
        # torchrun ends the others by SIGTERM; what ended by itself wrote its outcome.
        if failure < 0 and -failure != signal.SIGTERM and "code" not in told.get(int(name), {}):
            advice = "; the system does that where memory runs out" if -failure == signal.SIGKILL else ""
            return _End(1, f"rank {name} was ended by {signal.Signals(-failure).name}{advice}")
    if ended:
        return _End(ended[0]["code"], ended[0]["message"])
    return _End(1, f"none of the {num_processes} processes could be started; torchrun ended with {code}")


def _resuming(arguments: Sequence[str]) -> list[str]:
    return [*arguments, *(["--resume"] if "--resume" not in arguments else [])]
