"""The place of this process among a run's processes, and agreements between all of them.

torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) makes a process one of several. Without
it a run has one rank, and agreements cost nothing.
"""

import atexit
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from anybatch.engine.devices import local_device
from anybatch.engine.interruption import stop_requests
from anybatch.engine.watch import Cause, Watch
from anybatch.errors import Elsewhere, Failed, InputError, Stopped
from anybatch.files import told
from anybatch.process import supervised, tell_supervisor

Result = TypeVar("Result")

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Phrases of torch, gloo and NCCL for a connection whose other end is gone; they have no exception for it.
_LOST = re.compile(
    "gloo|ncclRemoteError|ncclSystemError|NCCL communicator was aborted|closed by peer|reset by peer|broken pipe|"
    "connection refused|socket|timed out",
    re.I,
)
# Phrases of NCCL for this rank's own fault, in texts that name sockets, too.
_OWN_FAULT = re.compile("ncclInvalidUsage|ncclInvalidArgument|ncclInternalError|Duplicate GPU|out of memory", re.I)
# NCCL, cuBLAS and CUDA itself take memory besides torch's allocator.
_FULL = re.compile("CUDA error: out of memory|Cuda failure.*out of memory|CUBLAS_STATUS_ALLOC_FAILED", re.S)


class Ranks:
    """This process among `size`: its number, its device, and small agreements, which all ranks must call alike."""

    def __init__(self, rank: int = 0, size: int = 1, watch: Watch | None = None) -> None:
        self.rank, self.size = rank, size
        self.watch = watch or Watch()
        self._group: dist.ProcessGroup | None = None
        self.device = local_device()

    def aside(self) -> "Ranks":
        """Returns the same ranks for another thread: agreements in a separate group, which the watch does not see."""
        aside = Ranks(self.rank, self.size)
        if self.size > 1:
            with self.waiting("connecting for checkpoints beside the steps"):
                aside._group = dist.new_group(backend="gloo", timeout=timedelta(days=1))
        return aside

    @property
    def leader(self) -> bool:
        """Whether this rank writes the run folder."""
        return self.rank == 0

    def sum(self, values: Tensor, what: str) -> Tensor:
        """Sums `values`, a tensor in the CPU's memory or on the ranks' devices, over all ranks in place."""
        if self.size > 1:
            with self.waiting(what):
                dist.all_reduce(values, group=self._group)
        return values

    def any(self, flag: bool, what: str) -> bool:
        """Returns whether `flag` is set on any rank."""
        return bool(self.sum(torch.tensor([int(flag)]), what).item())

    def least(self, value: int, what: str) -> int:
        """Returns the smallest `value` of any rank."""
        found = torch.tensor([value])
        if self.size > 1:
            with self.waiting(what):
                dist.all_reduce(found, op=dist.ReduceOp.MIN, group=self._group)
        return int(found.item())

    def barrier(self, what: str) -> None:
        """Returns when every rank has called it."""
        self.any(False, what)

    def from_leader(self, value: Result, what: str) -> Result:
        """Returns rank 0's `value` on every rank."""
        found = [value]
        if self.size > 1:
            with self.waiting(what):
                dist.broadcast_object_list(found, 0, group=self._group)
        return found[0]

    def problem(self, mine: str | None, what: str) -> str | None:
        """Returns, on every rank, the message of the lowest rank that has one; None if no rank has one."""
        found = [mine] * self.size
        if self.size > 1:
            with self.waiting(what):
                dist.all_gather_object(found, mine, group=self._group)
        return next((each for each in found if each is not None), None)

    def leader_first(self, call: Callable[[], Result], what: str) -> Result:
        """Runs `call()` on rank 0 and, after it has succeeded there, on all other ranks."""
        with self.watch.unhurried():
            if self.leader:
                result = call()
                self.barrier(what)
                return result
            self.barrier(what)
            return call()

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """A block that returns when the other ranks reach it, too; a lost rank is a `Failed`."""
        self.watch.doing(f"waiting for the other ranks: {what}", waiting=True)
        try:
            yield
        except RuntimeError as error:
            if is_lost(error):
                raise LostContact(error) from error
            raise
        self.watch.doing(what)

    def failed(self, error: BaseException) -> Cause:
        """Makes `error` known to all ranks, unless another error was first; returns the first one."""
        lost = is_lost(error)
        message = str(error if isinstance(error, LostContact) else LostContact(error)) if lost else _message(error)
        message = " ".join(message.split())
        if self.size > 1 and not isinstance(error, InputError):
            message = f"rank {self.rank}: {message}"
        return self.watch.failed(message, exit_code(error), lost_contact=lost)


class LostContact(Failed):
    """Another rank ended without a message."""

    def __init__(self, error: BaseException) -> None:
        why = " ".join(str(error).split())[:200]
        super().__init__(f"lost contact with another rank, which was killed or whose machine failed ({why})")


@contextmanager
def join_ranks(hang_timeout_s: float = 600.0, url: str = "env://") -> Iterator[Ranks]:
    """Yields this process's place among the run's ranks, for the block.

    An exception that leaves the block ends all ranks. The first rank that fails raises it; the others raise Elsewhere.
    Under a supervisor, which reports the failure, all raise Elsewhere.

    Args:
        hang_timeout_s: the longest time without progress, in seconds.
        url: the meeting place of the ranks: torchrun's environment, or file:///PATH?rank=R&world_size=N.
    """
    alone = url == "env://" and (not all(map(os.environ.get, _VARIABLES)) or os.environ["WORLD_SIZE"] == "1")
    try:
        local_device()
    except InputError as error:
        if supervised():
            tell_supervisor(exit_code(error), str(error))
            raise Elsewhere(exit_code(error)) from None
        raise
    ranks = Ranks(watch=Watch(hang_timeout_s=hang_timeout_s)) if alone else _connect(url, hang_timeout_s)
    # The supervisor asks the ranks that it knows to stop. A single rank can be interrupted while it prepares.
    with nullcontext() if alone else stop_requests():
        yield from _joined(ranks)


def _joined(ranks: Ranks) -> Iterator[Ranks]:
    tell_supervisor()
    ranks.watch.start()
    try:
        yield ranks
    except BaseException as error:
        if isinstance(error, Stopped):
            tell_supervisor(exit_code(error), str(error))
            cause = Cause(str(error), 0, exit_code(error))
        else:
            cause = ranks.failed(error)
        if ranks.size > 1:
            # The rest of broken connections must not keep the interpreter from ending.
            atexit.register(_leave, cause.code)
        tells = cause.rank == ranks.rank
        if supervised():
            if tells and not isinstance(
                error, Stopped | Failed | InputError | OSError | KeyboardInterrupt | SystemExit
            ):
                traceback.print_exc()
            raise Elsewhere(cause.code) from None
        if not tells:
            raise Elsewhere(cause.code) from None
        if is_lost(error) or isinstance(error, torch.OutOfMemoryError):
            raise Failed(cause.message) from None
        raise
    else:
        ranks.watch.stop()
        # Recorded before gloo shuts down, which may end the process: the run's exit code does not depend on it.
        tell_supervisor(0)
        if ranks.size > 1:
            dist.destroy_process_group()
    finally:
        # A failing rank among several stays watched to its end; after a single rank, the process may continue
        # otherwise.
        if ranks.size == 1:
            ranks.watch.stop()


def is_lost(error: BaseException) -> bool:
    """Returns whether `error` means only that another rank is gone."""
    if isinstance(error, LostContact):
        return True
    text = str(error)
    spoken = isinstance(error, RuntimeError) and dist.is_initialized()
    return spoken and bool(_LOST.search(text)) and not _OWN_FAULT.search(text)


def exit_code(error: BaseException) -> int:
    """Returns the exit code of the command that `error` ends."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    codes = {InputError: 2, Stopped: 75, KeyboardInterrupt: 130}
    return next((code for kind, code in codes.items() if isinstance(error, kind)), 1)


def _connect(url: str, hang_timeout_s: float) -> Ranks:
    store, rank, size = next(rendezvous(url, timeout=timedelta(minutes=10)))
    store.set_timeout(timedelta(minutes=10))
    if torch.cuda.is_available():
        torch.cuda.set_device(local_device())
        _leave_endings_to_the_watch(hang_timeout_s)
    # Small agreements are made in the CPU's memory, so that nothing waits for a GPU. The watch ends a rank that waits
    # too long, and knows the reason: the group's time limit must not act first.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timedelta(days=1))
    # A separate thread needs a separate connection: one that waits for an answer is not shared.
    return Ranks(rank, size, Watch(rank, size, store.clone(), hang_timeout_s))


def _leave_endings_to_the_watch(hang_timeout_s: float) -> None:
    """Keeps NCCL's watchdogs from aborting a process before the reason is written.

    One ends the process as soon as a peer's socket closes, the other after a time without progress.
    """
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
    os.environ.setdefault("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC", str(math.ceil(hang_timeout_s) + 120))


def _message(error: BaseException) -> str:
    if "Duplicate GPU" in str(error):
        return f"two processes compute on one GPU, which NCCL refuses: give each a GPU of its own ({error})"
    if isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and _FULL.search(str(error))):
        return f"out of memory; choose a smaller engine.micro_batch_size, or auto ({error})"
    if isinstance(error, OSError):
        return told(error)
    if isinstance(error, InputError | Stopped | Failed):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return f"{type(error).__name__}: {error}"


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
