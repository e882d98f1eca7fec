"""Micro-batches of examples that promise their targets are read a few at a time, and what is lacking is no target."""

import time
import weakref
from dataclasses import replace

import pytest
import torch
from support.linear_job import RaggedExamples, Regression

from anybatch.data.batch import Batch
from anybatch.engine import Execution
from anybatch.engine.job import Promise
from anybatch.engine.loading import Share, cut, loading, opened_share, read_share
from anybatch.engine.parallel import Replicated
from anybatch.engine.ranks import Ranks
from anybatch.engine.step import train_step

EXECUTION = Execution(micro_batch_size=4)


class Promised(RaggedExamples):
    """The same examples; `lost` are promised and not there, 1 + i % 3 targets each."""

    def __init__(self, lost: frozenset[int] = frozenset(), fails_at: int | None = None) -> None:
        super().__init__()
        self.lost, self.fails_at = lost, fails_at
        self.alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
        self.most = 0

    def promised(self, start: int, count: int) -> Promise:
        numbers = range(start, start + count)
        return Promise({"square": sum(1 + i % 3 for i in numbers)}, sum(7**i for i in numbers))

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


def share_of(examples: RaggedExamples, count: int = 400) -> Share:
    return opened_share(examples, cut(0, count, 0, 1, 4))


def stepped(share: Share) -> tuple[torch.Tensor, float, float]:
    model = Regression()
    result = train_step(Replicated(model, Ranks(), EXECUTION), torch.optim.SGD(model.parameters(), lr=1.0), share, None)
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
    late, whole = stepped(share_of(Promised())), stepped(read_share(RaggedExamples(), cut(0, 400, 0, 1, 4)))
    assert torch.equal(late[0], whole[0])
    assert late[1:] == whole[1:]


def test_a_target_that_turns_out_to_be_lacking_is_not_divided_by() -> None:
    examples = Promised(lost=frozenset({3, 50, 51, 399}))
    found, known = stepped(share_of(examples)), stepped(read_share(examples, cut(0, 400, 0, 1, 4)))
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
