"""Supervises a run on several processes of this machine: starts its ranks, asks them to stop, and restarts them.

It is torchrun for one machine, whose variables it sets. torchrun itself returns 1 whatever its workers return, prints
its own account of a failure, and ends them 30 seconds after a signal, saved or not.
"""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from anybatch.engine.interruption import StopRequest, stop_requests
from anybatch.errors import Failed, InputError, Stopped
from anybatch.process import SUPERVISOR
from anybatch.progress import PlainProgress

_PERIOD_S = 0.1
# The time that ranks have to end after the first that failed.
_GRACE_S = 30.0


# The end of an attempt: an exit code of ours, and the reason.
_End = tuple[int, str]


@dataclass(frozen=True)
class _Rank:
    """A process, and the file without a name in which it tells how it ends; see `process.tell_supervisor`."""

    number: int
    process: subprocess.Popen[bytes]
    file: IO[bytes]

    @property
    def told(self) -> dict[str, Any] | None:
        """The newest line; None if the rank has not begun."""
        descriptor = self.file.fileno()
        lines = os.pread(descriptor, os.fstat(descriptor).st_size, 0).split(b"\n")[:-1]
        return json.loads(lines[-1]) if lines else None

    def kill(self) -> None:
        """Ends the process, and those that it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)


def supervise(arguments: Sequence[str], recipe: Mapping[str, Any], num_processes: int, num_relaunches: int) -> None:
    """Runs `anybatch ARGUMENTS` on `num_processes` ranks until it is done; after a crash, again with --resume.

    Args:
        recipe: what the command is about, in JSON: the ranks find it in a file that is the command's first argument.
        num_relaunches: the largest number of restarts after failures that are not the user's.

    Raises:
        Stopped: a signal asked for it. The ranks were asked to save and stop, and have ended.
        InputError, Failed: the message of the first rank that failed, at the last attempt.
        KeyboardInterrupt: a second Ctrl-C; the ranks were ended at once.
    """
    with stop_requests() as request:
        for attempt in range(num_relaunches + 1):
            resumed = [] if not attempt or "--resume" in arguments else ["--resume"]
            code, message = _attempt([*arguments, *resumed], recipe, num_processes, request)
            if code == 0:
                return
            if code == 2:
                raise InputError(message)
            if code == 75 or request.reason:
                raise Stopped(message if code == 75 else f"{request.reason}; --resume continues from what is saved")
            if attempt < num_relaunches:
                PlainProgress().say(f"{message}; starting again ({attempt + 1} of {num_relaunches})")
    raise Failed(message)


def _attempt(arguments: Sequence[str], recipe: Mapping[str, Any], num_processes: int, request: StopRequest) -> _End:
    if request.reason is not None:
        return 75, f"{request.reason} before training began; --resume begins it"
    # The ranks meet here, and still do after one of them has failed.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks: list[_Rank] = []
    try:
        for number in range(num_processes):
            ranks.append(_started(arguments, recipe, number, num_processes, store.port))
        return _end(ranks, _failed(ranks, request))
    finally:
        for rank in ranks:
            if rank.process.returncode is None:
                rank.kill()
                rank.process.wait()
            rank.file.close()


def _started(arguments: Sequence[str], recipe: Mapping[str, Any], number: int, num_processes: int, port: int) -> _Rank:
    """Starts a rank with torchrun's variables, in a session of its own: we pass on a Ctrl-C in the terminal."""
    file = tempfile.TemporaryFile()  # noqa: SIM115  (closed in _attempt)
    with tempfile.TemporaryFile() as about:
        about.write(json.dumps(recipe).encode())
        about.seek(0)
        command, *options = arguments
        environment = {
            "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // num_processes)),
            **os.environ,
            SUPERVISOR: f"{os.getpid()}:{file.fileno()}",
            "RANK": str(number),
            "LOCAL_RANK": str(number),
            "WORLD_SIZE": str(num_processes),
            "LOCAL_WORLD_SIZE": str(num_processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_RUN_ID": str(os.getpid()),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "anybatch", command, f"/dev/fd/{about.fileno()}", *options],
            env=environment,
            pass_fds=(file.fileno(), about.fileno()),
            start_new_session=True,
        )
    return _Rank(number, process, file)


def _failed(ranks: Sequence[_Rank], request: StopRequest) -> list[_Rank]:
    """Waits for all ranks, and passes a request on; returns the ranks that failed, the first one first.

    After the first, the others have to end, too.
    """
    failed: list[_Rank] = []
    deadline, passed_on = math.inf, False
    while running := [rank for rank in ranks if rank.process.returncode is None]:
        if request.reason is not None and not passed_on:
            passed_on = True
            begun = [rank for rank in running if rank.told is not None]
            # If no rank has begun, there is nothing to save.
            for rank in begun or ranks:
                if "code" not in (rank.told or {}):
                    rank.process.send_signal(signal.Signals[request.reason] if begun else signal.SIGTERM)
        for rank in running:
            if rank.process.poll() is not None:
                rank.kill()
                if rank.process.returncode:
                    failed.append(rank)
            elif time.monotonic() > deadline:
                rank.kill()
        if failed and deadline == math.inf:
            deadline = time.monotonic() + _GRACE_S
            for rank in ranks:
                rank.process.terminate()
        time.sleep(_PERIOD_S)
    return failed


def _end(ranks: Sequence[_Rank], failed: Sequence[_Rank]) -> _End:
    told = {rank.number: rank.told or {} for rank in ranks}
    # A rank that has recorded its success may still be ended during the interpreter's shutdown.
    if not failed or all(each.get("code") == 0 for each in told.values()):
        return 0, ""
    ended = [each for each in told.values() if each.get("code")]
    for each in ended:
        if each["is_cause"]:
            return each["code"], each["message"]
    for rank in failed:
        number = -rank.process.returncode
        # We end the others by SIGTERM; a rank that ended by itself told its outcome.
        if number > 0 and number != signal.SIGTERM and "code" not in told[rank.number]:
            advice = "; the system does that where memory runs out" if number == signal.SIGKILL else ""
            return 1, f"rank {rank.number} was ended by {signal.Signals(number).name}{advice}"
    if ended:
        return ended[0]["code"], ended[0]["message"]
    first = failed[0].process.returncode
    return 1, f"none of the {len(ranks)} processes could be started; the first ended with {first}"
