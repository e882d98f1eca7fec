"""The examples of each step: this rank's share of them, cut into micro-batches, read ahead by a thread."""

import itertools
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from anybatch.engine.job import Batch, Examples


@dataclass(frozen=True)
class MicroBatch:
    """Inputs of one forward pass; with weight 0 they only keep a rank in step that has no example left."""

    inputs: Mapping[str, Tensor]
    weight: float
    num_examples: int = 0


@dataclass(frozen=True)
class Share:
    """What one rank learns from in one step; `num_targets` and `checksum` are its own, their sums the batch's."""

    micro_batches: list[MicroBatch]
    num_targets: dict[str, int]
    checksum: int


@dataclass(frozen=True)
class Piece:
    """`count` examples from position `start` of the stream; only those that `counts` are learned from."""

    start: int
    count: int
    counts: bool


def cut(
    start: int, count: int, rank: int, size: int, micro_batch_size: int, group_size: int | None = None
) -> list[Piece]:
    """Rank `rank`'s pieces of the examples start .. start + count - 1, as many on every one of `size` ranks.

    Ranks get shares that differ by one example at most; a share's last piece takes what is left. A rank whose share
    ends before the longest repeats its first example, or the batch's, without counting it. With `group_size`, a piece
    is one of the fewest groups of at most so many examples, all of about one size: the same groups for any cut.
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
    """Reads `pieces`; what does not count adds no target."""
    num_targets = Counter[str]()
    checksum = 0
    micro_batches = []
    for piece in pieces:
        batch = examples.read(piece.start, piece.count)
        num_targets.update({name: count if piece.counts else 0 for name, count in batch.num_targets.items()})
        checksum += batch.checksum if piece.counts else 0
        micro_batches.append(MicroBatch(batch.inputs, float(piece.counts), piece.count))
    return Share(micro_batches, dict(num_targets), checksum % 2**64)


def on_device(inputs: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """`inputs` where the model is; from pinned memory the copy runs beside the computation."""
    return {name: value.to(device, non_blocking=True) for name, value in inputs.items()}


def held_out_share(batches: list[Batch], rank: int, size: int) -> list[tuple[Batch, bool]]:
    """Every `size`-th of `batches`, as many on every rank; where none is left, the first, which does not count."""
    mine = [(batch, True) for batch in batches[rank::size]]
    return mine + [(batches[0], False)] * (-(-len(batches) // size) - len(mine))


class Loader:
    """Shares of consecutive steps, each read while the one before is computed with.

    `wait_s` is how long the last call of `next` waited.
    """

    def __init__(self, read: Callable[[int], Share], steps: Iterator[int], pin: bool) -> None:
        self._read, self._steps, self._pin = read, steps, pin
        self._ready: queue.Queue[Share | BaseException] = queue.Queue(maxsize=1)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="anybatch-loader", daemon=True)
        self.wait_s = 0.0

    def next(self) -> Share:
        """The next step's share; raises what reading it raised."""
        started = time.perf_counter()
        share = self._ready.get()
        self.wait_s = time.perf_counter() - started
        if isinstance(share, BaseException):
            raise share
        return share

    def _run(self) -> None:
        try:
            # Reading is NumPy's work on small arrays: threads of torch's own would only take the model's cores.
            for step in self._steps:
                self._put(_pinned(self._read(step)) if self._pin else self._read(step))
                if self._stopped.is_set():
                    return
        except BaseException as error:
            self._put(error)

    def _put(self, item: Share | BaseException) -> None:
        while not self._stopped.is_set():
            try:
                self._ready.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()


class DirectLoader:
    """Reads each step's share when it is asked for."""

    def __init__(self, read: Callable[[int], Share], steps: Iterator[int]) -> None:
        self._read, self._steps = read, steps
        self.wait_s = 0.0

    def next(self) -> Share:
        """The next step's share."""
        started = time.perf_counter()
        share = self._read(next(self._steps))
        self.wait_s = time.perf_counter() - started
        return share


@contextmanager
def loading(
    read: Callable[[int], Share], steps: Iterator[int], *, ahead: bool, pin: bool
) -> Iterator[Loader | DirectLoader]:
    """A loader for the length of the block: one that reads ahead, or one that does not."""
    if not ahead:
        yield DirectLoader(read, steps)
        return
    loader = Loader(read, steps, pin)
    loader.start()
    try:
        yield loader
    finally:
        loader.stop()


def _pinned(share: Share) -> Share:
    micro_batches = [
        replace(piece, inputs={name: value.pin_memory() for name, value in piece.inputs.items()})
        for piece in share.micro_batches
    ]
    return Share(micro_batches, share.num_targets, share.checksum)
