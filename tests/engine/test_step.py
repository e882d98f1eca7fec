"""The gradient of a global batch does not depend on how it is cut."""

import pytest
import torch
from support.linear_job import RaggedExamples, Regression, regression_job

from anybatch.engine.loading import Share, cut, read_share
from anybatch.engine.parallel import Parallel, parallelize
from anybatch.engine.ranks import Ranks
from anybatch.engine.step import sum_of_squares, train_step
from anybatch.errors import InputError


def alone(model: torch.nn.Module) -> Parallel:
    """`model` on a single rank."""
    return parallelize(regression_job(model=model), Ranks())


def share(start: int, count: int, micro_batch_size: int, poison: int | None = None) -> Share:
    """All of a batch, in micro-batches."""
    return read_share(RaggedExamples(poison), cut(start, count, 0, 1, micro_batch_size))


def gradient(micro_batch_size: int, count: int = 10) -> torch.Tensor:
    """The gradient that the optimizer is given for examples 5 .. 5 + count - 1."""
    seen: list[torch.Tensor] = []
    model = Regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    optimizer.register_step_pre_hook(
        lambda *_: seen.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    )
    train_step(alone(model), optimizer, share(5, count, micro_batch_size), None)
    return seen[0]


@pytest.mark.parametrize("micro_batch_size", [1, 3, 4, 9, 10])
def test_any_cut_gives_the_same_gradient(micro_batch_size: int) -> None:
    torch.testing.assert_close(gradient(micro_batch_size), gradient(50), rtol=1e-13, atol=1e-14)


def test_the_loss_is_the_mean_over_all_targets() -> None:
    model = Regression()
    batch = RaggedExamples().read(0, 7)
    expected = model(**batch.inputs)[0]["square"].item() / batch.num_targets["square"]
    result = train_step(alone(model), torch.optim.SGD(model.parameters(), lr=0.1), share(0, 7, 2), None)
    assert result.losses["square"] == pytest.approx(expected, rel=1e-13)


def test_the_last_micro_batch_takes_what_is_left() -> None:
    assert [(piece.start, piece.count) for piece in cut(3, 10, 0, 1, 4)] == [(3, 4), (7, 4), (11, 2)]


@pytest.mark.parametrize(
    ("count", "size", "micro_batch_size"), [(1000, 3, 32), (10, 4, 1), (2, 5, 4), (1, 3, 1), (7, 7, 2)]
)
def test_ranks_need_not_divide_the_batch(count: int, size: int, micro_batch_size: int) -> None:
    ranks = [cut(100, count, rank, size, micro_batch_size) for rank in range(size)]
    seen = [n for pieces in ranks for p in pieces if p.counts for n in range(p.start, p.start + p.count)]
    assert seen == list(range(100, 100 + count))
    assert len({len(pieces) for pieces in ranks}) == 1, "every rank computes equally often"
    shares = [sum(p.count for p in pieces if p.counts) for pieces in ranks]
    assert max(shares) - min(shares) <= 1
    assert all(100 <= p.start < 100 + count and p.count <= micro_batch_size for pieces in ranks for p in pieces)


@pytest.mark.parametrize(("parallel", "ranks"), [("none", Ranks(0, 2)), ("fsdp", Ranks())])
def test_a_way_of_parallel_that_the_ranks_do_not_fit_is_refused(parallel: str, ranks: Ranks) -> None:
    with pytest.raises(InputError, match=f"engine.parallel = '{parallel}'"):
        parallelize(regression_job(execution={"parallel": parallel}), ranks)


def test_gradients_are_clipped_to_the_global_norm() -> None:
    norms: list[float] = []
    model = Regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    optimizer.register_step_pre_hook(
        lambda *_: norms.append(
            float(sum_of_squares([p.grad for p in model.parameters() if p.grad is not None]).sqrt())
        )
    )
    result = train_step(alone(model), optimizer, share(0, 5, 5), 0.25)
    assert result.grad_norm > 0.25
    assert norms == [pytest.approx(0.25)]


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    model = Regression()
    optimizer = torch.optim.AdamW(model.parameters())
    train_step(alone(model), optimizer, share(0, 4, 4), None)
    before = [p.detach().clone() for p in model.parameters()]
    states = [state["exp_avg"].clone() for state in optimizer.state.values()]
    result = train_step(alone(model), optimizer, share(0, 4, 2, poison=2), None)
    assert result.skipped
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert all(torch.equal(old, s["exp_avg"]) for old, s in zip(states, optimizer.state.values(), strict=True))
    assert all(p.grad is None for p in model.parameters())
