"""Where a growing rate loses the loss."""

import math

import pytest

from anybatch.study.rate_range import lost_rate


def test_a_loss_that_falls_and_then_rises_is_lost_where_it_rises() -> None:
    rates = [0.01 * 1.2**step for step in range(40)]
    losses = [3 - 0.05 * step for step in range(25)] + [1.8 + 0.5 * step for step in range(15)]
    found = lost_rate(list(zip(rates, losses, strict=True)), tested=0.1)
    assert found.lost_at is not None
    assert rates[25] <= found.lost_at <= rates[29]
    assert found.margin == pytest.approx(found.lost_at / 0.1)


def test_a_loss_that_is_never_lost_has_no_margin() -> None:
    found = lost_rate([(0.1 * step, 3.0) for step in range(1, 10)], tested=0.2)
    assert (found.lost_at, found.highest, found.margin) == (None, 0.9, math.inf)


@pytest.mark.parametrize("loss", [None, math.inf, math.nan])
def test_a_loss_that_is_not_finite_is_lost(loss: float | None) -> None:
    assert lost_rate([(0.1, 3.0), (0.2, loss), (0.3, 3.0)], tested=0.1).lost_at == 0.2


def test_scatter_alone_is_no_loss() -> None:
    losses = [3 + 0.4 * (-1) ** step for step in range(40)]
    assert lost_rate([(0.1, loss) for loss in losses], tested=0.1).lost_at is None
