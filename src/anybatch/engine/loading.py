"""The examples of each step: this rank's share of them, cut into micro-batches, read ahead by a thread.

If examples promise their targets without being read, as images do, a few micro-batches are held at a time; otherwise,
as for masked words, the share of a step.
"""

import itertools
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
class Share:
    """One rank's examples in one step; `num_targets` and `checksum` are the rank's, their sums the batch's.

    Micro-batches that are read on demand, `Late`, can be read once.
    """

    micro_batches: "list[MicroBatch] | Late"
    num_targets: dict[str, int]
    checksum: int


@dataclass(frozen=True)
class Late:
    """`count` micro-batches that are not read yet."""

    count: int
    read: Iterator[MicroBatch]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[MicroBatch]:
        return self.read


@dataclass(frozen=True)
class Piece:
    """`count` examples from position `start` of the stream; only the first `counts` of them count."""

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
    """Reads `pieces`; uncounted examples add no target."""
    num_targets = Counter[str]()
    checksum = 0
    micro_batches = []
    for piece in pieces:
        batch = examples.read(piece.start, piece.count)
        num_targets.update({name: count if piece.counts else 0 for name, count in batch.num_targets.items()})
        checksum += batch.checksum if piece.counts else 0
        micro_batches.append(MicroBatch(batch.inputs, float(piece.counts), piece.count))
    return Share(micro_batches, dict(num_targets), checksum % 2**64)


def opened_share(examples: Examples, pieces: list[Piece]) -> Share:
    """As `read_share`; micro-batches are read when they are asked for, if the examples promise what they will have.

    Examples may have a method `promised`, like `read`: it returns a `Promise`, or None.
    """
    # Python 3.11 takes a tenth of a millisecond to tell whether an object follows a protocol.
    promised = getattr(examples, "promised", None)
    if promised is None or promised(pieces[0].start, pieces[0].count) is None:
        return read_share(examples, pieces)
    known: list[tuple[Piece, Promise]] = [(piece, promised(piece.start, piece.count)) for piece in pieces]
    num_targets = Counter[str]()
    for piece, promise in known:
        num_targets.update({name: count if piece.counts else 0 for name, count in promise.num_targets.items()})
    checksum = sum(promise.checksum for piece, promise in known if piece.counts)
    return Share(Late(len(known), _reading(examples, known)), dict(num_targets), checksum % 2**64)


def _reading(examples: Examples, known: list[tuple[Piece, Promise]]) -> Iterator[MicroBatch]:
    """Reads two at a time, so that the processes that decode are not idle at the end of each."""
    waiting: deque[tuple[Piece, Promise, Future[Batch]]] = deque()

    def oldest() -> MicroBatch:
        piece, promise, reading = waiting.popleft()
        batch = reading.result()
        lacking = sum(promise.num_targets.values()) - sum(batch.num_targets.values())
        return MicroBatch(batch.inputs, float(piece.counts), piece.count, lacking if piece.counts else 0)

    with ThreadPoolExecutor(2, thread_name_prefix="anybatch-reader") as readers:
        for piece, promise in known:
            waiting.append((piece, promise, readers.submit(examples.read, piece.start, piece.count)))
            if len(waiting) > 1:
                yield oldest()
        yield oldest()


def on_device(inputs: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Returns `inputs` on the model's device; from pinned memory the copy runs during the computation."""
    return {name: value.to(device, non_blocking=True) for name, value in inputs.items()}


def held_out_share(batches: list[Batch], rank: int, size: int) -> list[tuple[Batch, bool]]:
    """Returns every `size`-th of `batches`, as many on every rank; if none is left, the first, uncounted."""
    mine = [(batch, True) for batch in batches[rank::size]]
    return mine + [(batches[0], False)] * (-(-len(batches) // size) - len(mine))


class _Ahead(queue.Queue[tuple[int, Any]]):
    """A queue of items, each with its number of micro-batches; full at `maxsize` micro-batches."""

    def _qsize(self) -> int:
        return sum(number for number, _ in self.queue)


class Loader:
    """Shares of consecutive steps, read ahead of the computation by a thread.

    `wait_s` is the time that the last step waited.
    """

    def __init__(self, read: Callable[[int], Share], steps: Iterator[int], pin: bool) -> None:
        self._read, self._steps, self._pin = read, steps, pin
        self._ready = _Ahead(_MICRO_BATCHES_AHEAD)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="anybatch-loader", daemon=True)
        self.wait_s = 0.0

    def next(self) -> Share:
        """Returns the next step's share; it, and its micro-batches, raise the errors of reading them."""
        self.wait_s = 0.0
        share: Share = self._take()
        late = share.micro_batches
        return (
            share if isinstance(late, list) else replace(share, micro_batches=Late(len(late), self._taken(len(late))))
        )

    def _taken(self, count: int) -> Iterator[MicroBatch]:
        for _ in range(count):
            yield self._take()

    def _take(self) -> Any:
        started = time.perf_counter()
        _, item = self._ready.get()
        self.wait_s += time.perf_counter() - started
        if isinstance(item, BaseException):
            raise item
        return item

    def _run(self) -> None:
        try:
            # Reading is NumPy's work on small arrays: torch's threads would only take the model's cores.
            for step in self._steps:
                share = self._read(step)
                if isinstance(share.micro_batches, list):
                    # A share that is read as a whole is read one step ahead, with any number of micro-batches.
                    share = replace(share, micro_batches=[self._pinned(each) for each in share.micro_batches])
                    self._put(_MICRO_BATCHES_AHEAD, share)
                else:
                    self._put(1, share)
                    for each in share.micro_batches:
                        self._put(1, self._pinned(each))
                        if self._stopped.is_set():
                            return
                if self._stopped.is_set():
                    return
        except BaseException as error:
            self._put(1, error)

    def _pinned(self, piece: MicroBatch) -> MicroBatch:
        if not self._pin:
            return piece
        return replace(piece, inputs={name: value.pin_memory() for name, value in piece.inputs.items()})

    def _put(self, number: int, item: Share | MicroBatch | BaseException) -> None:
        while not self._stopped.is_set():
            try:
                self._ready.put((number, item), timeout=0.2)
                return
            except queue.Full:
                continue

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()


class DirectLoader:
    """Reads each step's share on demand."""

    def __init__(self, read: Callable[[int], Share], steps: Iterator[int]) -> None:
        self._read, self._steps = read, steps
        self.wait_s = 0.0

    def next(self) -> Share:
        """Returns the next step's share."""
        started = time.perf_counter()
        share = self._read(next(self._steps))
        self.wait_s = time.perf_counter() - started
        return share


@contextmanager
def loading(
    read: Callable[[int], Share], steps: Iterator[int], *, ahead: bool, pin: bool
) -> Iterator[Loader | DirectLoader]:
    """Yields a loader for the block: one that reads ahead, or one that does not."""
    if not ahead:
        yield DirectLoader(read, steps)
        return
    loader = Loader(read, steps, pin)
    loader.start()
    try:
        yield loader
    finally:
        loader.stop()
