"""Maps one function over many items in several processes; results are in the order of the items."""

import multiprocessing
import os
import signal
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from anybatch.process import die_with_parent

Item = TypeVar("Item")
Result = TypeVar("Result")

# Items in flight for each process: enough that no process waits, few enough for the memory. Large items: fewer, down
# to one.
_AHEAD = 2
_BYTES_AHEAD_A_PROCESS = 4 << 20
_BYTES_AHEAD = 128 << 20


def map_in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    num_processes: int,
    size: Callable[[Item], int] = lambda item: 0,
) -> Iterator[Result]:
    """Computes `map(function, items)` in `num_processes` processes (1: in this one), a few items ahead.

    `size` gives the bytes of an item: all items in flight together have at most 128 MiB, or 4 MiB a process.

    Raises what `function` raises for the first item that fails; ChildProcessError if a process is killed.
    """
    if num_processes <= 1:
        yield from map(function, items)
        return
    # A fork starts at once and shares what is loaded; on other systems it is not safe.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    executor = ProcessPoolExecutor(num_processes, context, begin_worker)
    waiting: deque[tuple[Future[Result], int]] = deque()
    most = max(_BYTES_AHEAD, _BYTES_AHEAD_A_PROCESS * num_processes)
    try:
        for item in items:
            mine = size(item)
            while waiting and (
                len(waiting) >= _AHEAD * num_processes or sum(held for _, held in waiting) + mine > most
            ):
                yield waiting.popleft()[0].result()
            waiting.append((submit(executor, function, item), mine))
        while waiting:
            yield waiting.popleft()[0].result()
    except BrokenProcessPool:
        raise ChildProcessError(
            "a worker process was killed, for want of memory perhaps; use fewer with --processes"
        ) from None
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def submit(executor: ProcessPoolExecutor, function: Callable[[Item], Result], item: Item) -> "Future[Result]":
    """`executor.submit`, without the warning that Python has for forks."""
    with warnings.catch_warnings():
        # Python 3.12 warns of a fork in a process with threads; the children use nothing that such threads hold.
        warnings.simplefilter("ignore", DeprecationWarning)
        return executor.submit(function, item)


def begin_worker() -> None:
    """Prepares a new process: it ignores signals, which the parent handles, and it ends with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    die_with_parent()
