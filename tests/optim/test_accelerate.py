"""Accelerate wraps an optimizer, and steps a schedule for it: what docs/optimizers.md says of both."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from anybatch import LAMB, LARS, param_groups
from anybatch.scaling import schedule


@pytest.fixture
def accelerator() -> Iterator[Any]:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


@pytest.mark.parametrize("make", [LAMB, LARS])
def test_a_skipped_step_is_no_step_of_the_schedule(accelerator: Any, make: Any) -> None:
    model = torch.nn.Linear(4, 2)
    optimizer = make(param_groups(model), lr=0.1, nonfinite="skip")
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule(6, 2))
    told = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: schedule(6, 2)(t - optimizer.skipped_steps))
    prepared_model, prepared = accelerator.prepare(model, optimizer)
    assert prepared.optimizer is optimizer
    rates = []
    for bad in (False, True, True, False, False):
        batch = torch.full((3, 4), float("nan")) if bad else torch.ones(3, 4)
        accelerator.backward(prepared_model(batch).sum())
        skipped = optimizer.skipped_steps
        prepared.step()
        prepared.zero_grad()
        assert not prepared.step_was_skipped, "Accelerate does not know"
        if optimizer.skipped_steps == skipped:
            scheduler.step()
        expected = scheduler.get_last_lr()
        told.step()
        assert told.get_last_lr() == expected
        rates.append(expected[0] / 0.1)
    assert rates == pytest.approx([1.0, 1.0, 1.0, 1.0, 0.75])
    assert optimizer.skipped_steps == 2
    assert optimizer.nonfinite_layers == []
    assert prepared.optimizer.trust_ratios().keys() == {"weight", "bias"}
    for name in ("skipped_steps", "trust_ratios"):
        assert not hasattr(prepared, name)
