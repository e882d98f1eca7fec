"""Decodes images in separate processes, which need no Python lock and leave it to the training loop."""

import mmap
import multiprocessing
import queue
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np

from anybatch.data.images.sets import Pixels
from anybatch.data.images.views import FileViews, Numbers, Seen
from anybatch.data.pool import begin_worker, submit
from anybatch.errors import Failed

# The number of images that a process decodes at a time: few, so that all processes finish a batch together.
_CHUNK = 4
# The number of calls that may run at a time, in several threads.
_CALLS = 2

Answer = tuple[Seen, dict[int, str]]


class ProcessViews:
    """Shows what `views` shows, in `count` processes that are forked here; pixels return in shared memory.

    The processes end with this one.
    """

    def __init__(self, views: FileViews, count: int) -> None:
        self._views, self._count = views, count
        self._slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        shape = (_CALLS * (count + 1), _CHUNK, views.size, views.size, views.channels)
        for slot in range(shape[0]):
            self._slots.put(slot)
        self._shared = np.frombuffer(mmap.mmap(-1, int(np.prod(shape))), dtype=np.uint8).reshape(shape)
        context = multiprocessing.get_context("fork")
        self._pool = ProcessPoolExecutor(count, context, _begin, (views, self._shared))
        # All are forked at the first task: now, while this process has few threads and no GPU, by a thread that stays.
        submit(self._pool, _nothing, None).result()

    def __call__(self, epochs: Numbers, examples: Numbers) -> tuple[Pixels, Seen]:
        found = np.empty((len(examples), *self._shared.shape[2:]), dtype=np.uint8)
        seen = np.zeros(len(examples), dtype=np.bool_)
        waiting: deque[tuple[slice, int, Future[Answer]]] = deque()

        def take_oldest() -> None:
            place, slot, answer = waiting.popleft()
            seen[place], reasons = answer.result()
            found[place] = self._shared[slot, : place.stop - place.start]
            self._slots.put(slot)
            for index, reason in reasons.items():
                self._views.skip(index, reason)

        try:
            for start in range(0, len(examples), _CHUNK):
                if len(waiting) > self._count:
                    take_oldest()
                place = slice(start, min(start + _CHUNK, len(examples)))
                slot = self._slots.get()
                waiting.append((place, slot, submit(self._pool, _view, (slot, epochs[place], examples[place]))))
            while waiting:
                take_oldest()
        except BrokenProcessPool:
            raise Failed(
                "a process that decodes images was killed, perhaps for lack of memory; try engine.decoding=threads"
            ) from None
        return found, seen


class _Mine:
    """What a process gets from its parent."""

    views: FileViews
    shared: Pixels


def _begin(views: FileViews, shared: Pixels) -> None:
    begin_worker()
    views.alone()
    _Mine.views, _Mine.shared = views, shared


def _nothing(_: None) -> None:
    """A first task."""


def _view(task: tuple[int, Numbers, Numbers]) -> Answer:
    slot, epochs, examples = task
    pixels, seen = _Mine.views(epochs, examples)
    _Mine.shared[slot, : len(examples)] = pixels
    return seen, {int(index): _Mine.views.skipped[int(index)] for index in examples[~seen]}
