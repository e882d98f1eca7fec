"""The examples of each step: this rank's share of them, cut into micro-batches, read ahead by threads.

If examples promise their targets without being read, as images do, a few micro-batches are held at a time; otherwise,
as for masked words, the share of a step.
"""

import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from queue import SimpleQueue

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
    """Micro-batches that these functions read when they are asked for."""

    reads: Sequence[Callable[[], MicroBatch]]

    def __len__(self) -> int:
        return len(self.reads)

    def __iter__(self) -> Iterator[MicroBatch]:
        return (read() for read in self.reads)


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
    reads = [partial(_micro_batch, piece, each) for piece, each in zip(pieces, known, strict=True)]
    micro_batches = Late(reads) if isinstance(known[0], Promise) else [read() for read in reads]
    return Share(micro_batches, dict(num_targets), checksum % 2**64)


def _micro_batch(piece: Piece, known: Batch | Promise) -> MicroBatch:
    """Returns the inputs of `piece`, which it reads if they are only promised."""
    batch = known.read() if isinstance(known, Promise) else known
    lacking = sum(known.num_targets.values()) - sum(batch.num_targets.values())
    return MicroBatch(batch.inputs, float(piece.counts), piece.count, lacking if piece.counts else 0)


def on_device(inputs: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Returns `inputs` on the model's device; from pinned memory the copy runs during the computation."""
    return {name: value.to(device, non_blocking=True) for name, value in inputs.items()}


class Loader:
    """Shares of consecutive steps, which a thread reads; if `ahead`, the next one is read during a step.

    `wait_s` is the time that the last step waited.
    """

    def __init__(self, read: Callable[[int], Share], steps: Iterable[int], ahead: bool, pin: bool) -> None:
        self._read, self._steps, self._ahead, self._pin = read, steps, ahead, pin
        # Futures would take the main thread a hundredth of a millisecond more a step.
        self._asked, self._shares = SimpleQueue[bool](), SimpleQueue[Share | BaseException]()
        self._late, self._reading = deque[Callable[[], MicroBatch]](), deque[Future[MicroBatch]]()
        self._lock = threading.Lock()
        # Two, so that the processes that decode are not idle at the end of each micro-batch.
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="anybatch-reader")
        self._thread = threading.Thread(target=self._run, name="anybatch-loader", daemon=True)
        self._thread.start()
        self.wait_s = 0.0
        if ahead:
            self._asked.put(True)

    def next(self) -> Share:
        """Returns the next step's share; it, and its micro-batches, raise the errors of reading them."""
        if not self._ahead:
            self._asked.put(True)
        started = time.perf_counter()
        share = self._shares.get()
        self.wait_s = time.perf_counter() - started
        if isinstance(share, BaseException):
            raise share
        if self._ahead:
            self._asked.put(True)
        return share

    def _run(self) -> None:
        for step in self._steps:
            if not self._asked.get():
                return
            try:
                self._shares.put(self._opened(self._read(step)))
            except BaseException as error:
                self._shares.put(error)

    def _opened(self, share: Share) -> Share:
        """Begins to read the micro-batches that are late, after those of the step before."""
        if not isinstance(share.micro_batches, list):
            self._read_on(share.micro_batches.reads)
            return replace(share, micro_batches=Late([self._micro_batch] * len(share.micro_batches)))
        return replace(share, micro_batches=[_pinned(each) for each in share.micro_batches]) if self._pin else share

    def _read_on(self, late: Sequence[Callable[[], MicroBatch]] = ()) -> None:
        with self._lock:
            self._late.extend(late)
            while self._late and len(self._reading) < _MICRO_BATCHES_AHEAD:
                self._reading.append(self._readers.submit(self._read_late, self._late.popleft()))

    def _read_late(self, read: Callable[[], MicroBatch]) -> MicroBatch:
        return _pinned(read()) if self._pin else read()

    def _micro_batch(self) -> MicroBatch:
        started = time.perf_counter()
        micro_batch = self._reading.popleft().result()
        self.wait_s += time.perf_counter() - started
        self._read_on()
        return micro_batch

    def stop(self) -> None:
        """Waits for what is being read."""
        self._asked.put(False)
        self._thread.join()
        self._readers.shutdown(cancel_futures=True)


def _pinned(each: MicroBatch) -> MicroBatch:
    return replace(each, inputs={name: value.pin_memory() for name, value in each.inputs.items()})


@contextmanager
def loading(read: Callable[[int], Share], steps: Iterable[int], *, ahead: bool, pin: bool) -> Iterator[Loader]:
    """Yields a loader of the steps for the block."""
    loader = Loader(read, steps, ahead, pin)
    try:
        yield loader
    finally:
        loader.stop()
