"""Micro-batches of examples that promise their targets are read a few at a time, and what is lacking is no target."""

import time
import weakref
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.linear_job import RaggedExamples, Regression

from anybatch.data.batch import Batch
from anybatch.data.images.source import ImageSource, Normalization
from anybatch.data.sampling import Stream, checksum
from anybatch.engine import Execution
from anybatch.engine.job import Promise
from anybatch.engine.loading import Share, cut, loading, read_share
from anybatch.engine.parallel import Parallel
from anybatch.engine.ranks import Ranks
from anybatch.engine.step import train_step
from anybatch.recipes.phases import StreamedExamples

EXECUTION = Execution(micro_batch_size=4)


class Lossy(RaggedExamples):
    """The same examples without the targets of `lost`, 1 + i % 3 each."""

    def __init__(self, lost: frozenset[int] = frozenset(), fails_at: int | None = None) -> None:
        super().__init__()
        self.lost, self.fails_at = lost, fails_at
        self.alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
        self.most = 0

    def read(self, start: int, count: int) -> Batch:
        if self.fails_at is not None and start >= self.fails_at:
            raise OSError("the disk is gone")
        batch = super().read(start, count)
        kept = torch.cat([torch.full((1 + i % 3,), i not in self.lost) for i in range(start, start + count)])
        batch = replace(batch, inputs={name: value[kept] for name, value in batch.inputs.items()},
                        num_targets={"square": int(kept.sum())})  # fmt: skip
        self.alive.add(batch.inputs["x"])
        self.most = max(self.most, len(self.alive))
        return batch


class Promised(Lossy):
    """All targets are promised."""

    def promised(self, start: int, count: int) -> Promise:
        numbers = range(start, start + count)
        targets = {"square": sum(1 + i % 3 for i in numbers)}
        return Promise(targets, sum(7**i for i in numbers), partial(self.read, start, count))


def share_of(examples: RaggedExamples, count: int = 400) -> Share:
    return read_share(examples, cut(0, count, 0, 1, 4))


def stepped(share: Share) -> tuple[torch.Tensor, float, float]:
    model = Regression()
    result = train_step(Parallel(model, Ranks(), EXECUTION), torch.optim.SGD(model.parameters(), lr=1.0), share, None)
    return torch.cat([p.detach().flatten() for p in model.parameters()]), result.losses["square"], result.grad_norm


def test_a_hundred_micro_batches_are_never_in_memory_together() -> None:
    examples = Promised()
    with loading(lambda step: share_of(examples), iter(range(2)), ahead=True, pin=False) as loader:
        for _ in range(2):
            share = loader.next()
            assert len(share.micro_batches) == 100
            until = time.monotonic() + 20
            while examples.most < 12 and time.monotonic() < until:
                time.sleep(0.01)
            seen = [micro_batch.num_examples for micro_batch in share.micro_batches]
            assert seen == [4] * 100
    assert 12 <= examples.most <= 16, "those ahead, the two that are read, the one that is computed with"


def test_a_step_is_the_same_whether_its_share_is_read_at_once_or_not() -> None:
    late, whole = stepped(share_of(Promised())), stepped(share_of(RaggedExamples()))
    assert torch.equal(late[0], whole[0])
    assert late[1:] == whole[1:]


def test_a_target_that_turns_out_to_be_lacking_is_not_divided_by() -> None:
    lost = frozenset({3, 50, 51, 399})
    found, known = stepped(share_of(Promised(lost))), stepped(share_of(Lossy(lost)))
    torch.testing.assert_close(found[0], known[0], rtol=1e-12, atol=1e-12)
    assert found[1:] == pytest.approx(known[1:], rel=1e-12)


def test_what_fails_while_a_step_is_computed_is_raised_there() -> None:
    with loading(lambda step: share_of(Promised(fails_at=200)), iter([0]), ahead=True, pin=False) as loader:
        share = loader.next()
        with pytest.raises(OSError, match="disk"):
            list(share.micro_batches)


def test_text_is_read_one_step_ahead_and_no_more() -> None:
    read: list[int] = []

    def share(step: int) -> Share:
        read.append(step)
        return share_of(RaggedExamples(), 8)

    with loading(share, iter(range(9)), ahead=True, pin=False) as loader:
        for step in range(4):
            assert isinstance(loader.next().micro_batches, list)
            assert max(read) <= step + 3


def test_the_place_of_an_image_is_computed_once() -> None:
    class Counted(Stream):
        asked: list[tuple[int, int]] = []  # noqa: RUF012

        def at(self, start: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
            self.asked.append((start, count))
            return super().at(start, count)

    def views(epochs: NDArray[np.int64], examples: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        return np.full((len(examples), 2, 2, 1), examples[:, None, None, None], np.uint8), examples < 19

    source = ImageSource(views, np.arange(20), Normalization((0.0,), (1 / 255,)), seed=0)
    share = read_share(StreamedExamples(source, Counted(20, seed=0)), cut(0, 16, 0, 1, 4))
    micro_batches = list(share.micro_batches)
    assert Counted.asked == [(0, 4), (4, 4), (8, 4), (12, 4)]
    labels = torch.cat([each.inputs["labels"] for each in micro_batches])
    assert share.num_targets["label"] - sum(each.lacking for each in micro_batches) == int((labels >= 0).sum())
    assert labels[labels >= 0].tolist() == [n for n in Stream(20, seed=0).at(0, 16)[1].tolist() if n < 19]
    assert share.checksum == checksum(*Stream(20, seed=0).at(0, 16))
