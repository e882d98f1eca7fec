"""Independent runs side by side, one thread each: on few cores small models gain more from that than from threads."""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, suppress
from itertools import count
from multiprocessing import get_context, parent_process
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from queue import Empty, Queue
from typing import Any, TypeVar

import torch

from anybatch.engine import Progress, Task, stop_requests
from anybatch.errors import Stopped
from anybatch.process import ENDING, deaf

Result = TypeVar("Result")
Message = tuple[Any, ...]

_GRACE_S = 20.0
# The tasks of a worker.
_numbers = count()


def run_side_by_side(
    calls: Sequence[Callable[[Progress], Result]], num_workers: int, progress: Progress
) -> list[Result]:
    """Returns the results of `calls`, each run in one of `num_workers` processes with a single thread, in order.

    The calls are pickled; what they show through their progress appears in `progress`. If this process is asked to
    stop, or a call fails, the running calls are asked to stop and save, and no other is started.

    Raises:
        Stopped: a signal asked for it.
        Exception: the error of the first failing call.
    """
    context = get_context("spawn")
    messages: Queue[Message] = context.Queue()  # type: ignore[assignment]
    asked = context.Event()
    numbers = context.Value("i", 0)
    shown: dict[object, Any] = {"progress": progress}
    workers: list[int] = []
    told = 0
    with (
        stop_requests() as request,
        ProcessPoolExecutor(
            num_workers, context, initializer=_start_worker, initargs=(messages, asked, numbers)
        ) as pool,
        ExitStack() as held,
    ):
        # At most as many as the workers can take at once: a pool starts what it holds, even if asked to stop.
        waiting = list(reversed(calls))
        futures: list[Future[Result]] = []
        pending: set[Future[Result]] = set()
        # At once, as a second Ctrl-C requests.
        held.callback(_send, signal.SIGKILL, workers)
        while pending or (waiting and not asked.is_set()):
            while waiting and not asked.is_set() and len(pending) < num_workers:
                # A new process is deaf until it is set up: signals to the whole group are this process's business.
                with deaf():
                    futures.append(pool.submit(_call, waiting.pop()))
                pending.add(futures[-1])
            done, pending = wait(pending, timeout=0.1, return_when=FIRST_COMPLETED)
            _repeat(messages, shown, workers)
            if request.reason or any(future.exception() for future in done):
                asked.set()
            # Also in later rounds: a worker's first message may arrive after another's failure.
            if asked.is_set():
                _send(signal.SIGTERM, workers[told:])
                told = len(workers)
        held.pop_all()
    # A result can overtake the last messages; after the workers are gone, all have arrived.
    _repeat(messages, shown, workers)
    errors = [error for future in futures if (error := future.exception())]
    causes = [error for error in errors if not isinstance(error, Stopped)]
    if causes and not (request.reason and all(isinstance(error, BrokenProcessPool) for error in causes)):
        raise causes[0]
    if request.reason:
        raise Stopped(f"{request.reason}; what was under way is saved, and the same command goes on from there")
    return [future.result() for future in futures]


def _send(number: int, workers: Sequence[int]) -> None:
    for worker in workers:
        with suppress(ProcessLookupError):
            os.kill(worker, number)


def _repeat(messages: "Queue[Message]", shown: dict[object, Any], workers: list[int]) -> None:
    """Repeats in this process what the workers' progress and tasks were asked for; adds the workers that began."""
    with suppress(Empty):
        while True:
            key, method, arguments, made = messages.get_nowait()
            if method == "begin":
                workers.append(key)
            else:
                shown[made] = getattr(shown[key], method)(*arguments)


class _SentProgress:
    """A worker's progress, or the task `key` of it: sends everything to the process that started the worker."""

    def __init__(self, messages: "Queue[Message]", key: object = "progress") -> None:
        self._messages, self._key, self._sent = messages, key, 0.0

    def task(self, title: str, total: int, done: int = 0) -> Task:
        key = os.getpid(), next(_numbers)
        self._messages.put((self._key, "task", (title, total, done), key))
        return _SentProgress(self._messages, key)

    def say(self, line: str) -> None:
        self._messages.put((self._key, "say", (line,), None))

    def advance(self, done: int, note: str) -> None:
        now = time.monotonic()
        if now - self._sent >= 0.2:
            self._sent = now
            self._messages.put((self._key, "advance", (done, note), None))

    def end(self) -> None:
        self._messages.put((self._key, "end", (), None))


_progress: Progress
_asked: Event
_working, _orphaned = threading.Event(), threading.Event()


def _start_worker(messages: "Queue[Message]", asked: Event, numbers: "Synchronized[int]") -> None:
    global _progress, _asked
    with numbers.get_lock():
        number = numbers.value
        numbers.value += 1
    _take_gpu(number)
    # Ctrl-C in a terminal goes to a whole process group: outside of it, the workers stop when asked, once.
    os.setpgid(0, 0)
    for ending in ENDING:
        signal.signal(ending, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _progress, _asked = _SentProgress(messages), asked
    messages.put((os.getpid(), "begin", (), None))


def _take_gpu(number: int) -> None:
    """Selects the GPU of worker `number`, in turn."""
    if torch.cuda.is_available():
        os.environ["LOCAL_RANK"] = str(number % torch.cuda.device_count())


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    _orphaned.set()
    if _working.is_set():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE_S)
    os._exit(1)


def _call(call: Callable[[Progress], Result]) -> Result:
    # Listening first: the request sets the flag and then signals each worker once, so no call misses both.
    _working.set()
    try:
        with stop_requests():
            if _asked.is_set():
                raise Stopped("asked to stop before it began")
            return call(_progress)
    finally:
        _working.clear()
        if _orphaned.is_set():
            os._exit(1)
