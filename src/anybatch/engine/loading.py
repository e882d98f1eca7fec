"""The examples of each step: this rank's share of them, cut into micro-batches, read ahead by a thread.

If examples promise their targets without being read, as images do, a few micro-batches are held at a time; otherwise,
as for masked words, the share of a step.
"""

import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor

from anybatch.engine.job import Batch, Examples, Promise

# Enough that a slow image delays nothing, few enough for the memory: 12 groups of 64 images of 224 x 224 are 116 MB.
_MICRO_BATCHES_AHEAD = 12


@dataclass(frozen=True)
class MicroBatch:
    """Inputs of one forward pass; with weight 0 they only keep a rank without examples in step.

    `lacking`: targets that its examples promised, and do not have.
    """

    inputs: Mapping[str, Tensor]
    weight: float
    num_examples: int = 0
    lacking: int = 0


@dataclass(frozen=True)
class Late:
    """`count` micro-batches that are read when they are asked for, once."""

    count: int
    read: Iterator[MicroBatch]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[MicroBatch]:
        return self.read


@dataclass(frozen=True)
class Share:
    """One rank's examples in one step; `num_targets` and `checksum` are the rank's, their sums the batch's."""

    micro_batches: list[MicroBatch] | Late
    num_targets: dict[str, int]
    checksum: int


@dataclass(frozen=True)
class Piece:
    """`count` examples from position `start` of the stream; only if it `counts`, they are part of the batch."""

    start: int
    count: int
    counts: bool


def cut(
    start: int, count: int, rank: int, size: int, micro_batch_size: int, group_size: int | None = None
) -> list[Piece]:
    """Splits examples start .. start + count - 1 into pieces for rank `rank` of `size`.

    Every rank gets as many pieces. The ranks' shares differ by at most one example; a share's last piece takes the
    rest. A rank whose share ends before the longest share repeats its first example, or the batch's, without counting
    it. With `group_size`, a piece is a group: the batch is split into the fewest groups of at most `group_size`
    examples, nearly equal in size, the same for any cut.
    """
    if group_size is not None:
        return _cut_groups(start, count, rank, size, group_size)
    bounds = [start + count * place // size for place in (rank, rank + 1)]
    longest = -(-count // size)
    pieces = [
        Piece(position, min(micro_batch_size, bounds[1] - position), True)
        for position in range(bounds[0], bounds[1], micro_batch_size)
    ]
    filler = Piece(bounds[0] if pieces else start, 1, False)
    return pieces + [filler] * (-(-longest // micro_batch_size) - len(pieces))


def _cut_groups(start: int, count: int, rank: int, size: int, group_size: int) -> list[Piece]:
    num_groups = -(-count // group_size)
    bounds = [start + count * group // num_groups for group in range(num_groups + 1)]
    groups = [Piece(low, high - low, True) for low, high in itertools.pairwise(bounds)]
    pieces = groups[num_groups * rank // size : num_groups * (rank + 1) // size]
    filler = replace((pieces or groups)[0], counts=False)
    return pieces + [filler] * (-(-num_groups // size) - len(pieces))


def read_share(examples: Examples, pieces: list[Piece]) -> Share:
    """Reads `pieces`, or what is promised of them; uncounted examples add no target.

    Examples may have a method `promised`, like `read`: it returns a `Promise`, or None.
    """
    # Python 3.11 takes a tenth of a millisecond to tell whether an object follows a protocol.
    promised = getattr(examples, "promised", lambda start, count: None)
    known: list[Batch | Promise] = [
        promised(piece.start, piece.count) or examples.read(piece.start, piece.count) for piece in pieces
    ]
    num_targets = Counter[str]()
    for piece, each in zip(pieces, known, strict=True):
        num_targets.update({name: count if piece.counts else 0 for name, count in each.num_targets.items()})
    checksum = sum(each.checksum for piece, each in zip(pieces, known, strict=True) if piece.counts)
    micro_batches: list[MicroBatch] | Late
    if isinstance(known[0], Promise):
        micro_batches = Late(len(pieces), _reading(pieces, known))
    else:
        micro_batches = [_micro_batch(piece, each) for piece, each in zip(pieces, known, strict=True)]
    return Share(micro_batches, dict(num_targets), checksum % 2**64)


def _micro_batch(piece: Piece, known: Batch | Promise) -> MicroBatch:
    """Returns the inputs of `piece`, which it reads if they are only promised."""
    batch = known.read() if isinstance(known, Promise) else known
    lacking = sum(known.num_targets.values()) - sum(batch.num_targets.values())
    return MicroBatch(batch.inputs, float(piece.counts), piece.count, lacking if piece.counts else 0)


def _reading(pieces: list[Piece], known: list[Batch | Promise]) -> Iterator[MicroBatch]:
    """Reads two at a time, so that the processes that decode are not idle at the end of each."""
    waiting = deque[Future[MicroBatch]]()
    with ThreadPoolExecutor(2, thread_name_prefix="anybatch-reader") as readers:
        for piece, promise in zip(pieces, known, strict=True):
            waiting.append(readers.submit(_micro_batch, piece, promise))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        yield waiting.popleft().result()


def on_device(inputs: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Returns `inputs` on the model's device; from pinned memory the copy runs during the computation."""
    return {name: value.to(device, non_blocking=True) for name, value in inputs.items()}


class Loader:
    """Shares of consecutive steps; `wait_s` is the time that the last step waited."""

    def __init__(self, items: Iterator[Share | MicroBatch]) -> None:
        self._items = items
        self.wait_s = 0.0

    def next(self) -> Share:
        """Returns the next step's share; it, and its micro-batches, raise the errors of reading them."""
        self.wait_s = 0.0
        share: Share = self._take()
        if isinstance(share.micro_batches, list):
            return share
        count = len(share.micro_batches)
        return replace(share, micro_batches=Late(count, (self._take() for _ in range(count))))

    def _take(self) -> Any:
        started = time.perf_counter()
        item = next(self._items)
        self.wait_s += time.perf_counter() - started
        return item


@contextmanager
def loading(read: Callable[[int], Share], steps: Iterable[int], *, ahead: bool, pin: bool) -> Iterator[Loader]:
    """Yields a loader of the steps for the block; `ahead`: a thread reads what it will return."""
    items = _items(read, steps, pin)
    with _taken_ahead(items) if ahead else nullcontext(items) as taken:
        yield Loader(taken)


def _items(read: Callable[[int], Share], steps: Iterable[int], pin: bool) -> Iterator[Share | MicroBatch]:
    """Yields each step's share, and after it the micro-batches that it is late with."""
    for step in steps:
        share = read(step)
        if isinstance(share.micro_batches, list):
            yield replace(share, micro_batches=[_pinned(each) for each in share.micro_batches]) if pin else share
        else:
            yield share
            for each in share.micro_batches:
                yield _pinned(each) if pin else each


def _pinned(micro_batch: MicroBatch) -> MicroBatch:
    return replace(micro_batch, inputs={name: value.pin_memory() for name, value in micro_batch.inputs.items()})


@contextmanager
def _taken_ahead(items: Iterator[Share | MicroBatch]) -> Iterator[Iterator[Share | MicroBatch]]:
    """Yields `items`, which a thread takes in advance; an error is raised in the place of the item that failed."""
    ready = SimpleQueue[Share | MicroBatch | BaseException]()
    room, stopped = threading.Semaphore(_MICRO_BATCHES_AHEAD), threading.Event()

    def size(item: Share | MicroBatch) -> int:
        # A share that is read as a whole is read one step ahead, with any number of micro-batches.
        return _MICRO_BATCHES_AHEAD if isinstance(item, Share) and isinstance(item.micro_batches, list) else 1

    def take() -> None:
        try:
            for item in items:
                for _ in range(size(item)):
                    room.acquire()
                if stopped.is_set():
                    return
                ready.put(item)
        except BaseException as error:
            ready.put(error)

    def taken() -> Iterator[Share | MicroBatch]:
        while not isinstance(item := ready.get(), BaseException):
            room.release(size(item))
            yield item
        raise item

    thread = threading.Thread(target=take, name="anybatch-loader", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        stopped.set()
        room.release(_MICRO_BATCHES_AHEAD)
        thread.join()
