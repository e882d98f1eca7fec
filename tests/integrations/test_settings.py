"""A run's settings from a reference, without any library."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.loops import network

from anybatch import LAMB, Layerwise, Reference, param_groups
from anybatch.integrations import checks, settings

TUNED = Reference(8, lr=0.01, warmup_ratio=1 / 64, num_examples=512)


def test_what_is_recorded_names_optimizer_rule_and_peak() -> None:
    owner = SimpleNamespace()
    run = settings.scaled_run(owner, Reference(8, lr=0.01, warmup_ratio=1 / 16, num_examples=512), 32)
    optimizer = LAMB(param_groups(network()), lr=run.lr)
    checks.ScaledLR(optimizer, run.schedule)
    assert optimizer.param_groups[0]["lr"] < run.lr, "it warms up"
    assert settings.recorded(owner, optimizer) == {
        "settings/optimizer/LAMB": 1,
        "settings/rule/sqrt": 1,
        "settings/lr": run.lr,
        "settings/warmup_steps": run.warmup_steps,
        "settings/num_steps": run.num_steps,
        "settings/reference_batch_size": 8,
        "settings/reference_lr": 0.01,
    }
    layered = Layerwise(torch.optim.AdamW(network().parameters()))
    assert settings.recorded(SimpleNamespace(), layered) == {"settings/optimizer/Layerwise-AdamW": 1}


def test_what_is_no_reference_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"reference=\{'lr': 0.1\} is not an anybatch.Reference"):
        settings.scaled_run(SimpleNamespace(), {"lr": 0.1}, 32)  # type: ignore[arg-type]


def test_processes_that_see_the_same_examples_are_counted_once() -> None:
    assert settings.copies(None) == 1
    assert settings.copies(SimpleNamespace(tp_size=2, cp_size=3, sp_size=None)) == 6


@pytest.mark.parametrize(
    ("batch_size", "micro_batch_size", "line"),
    [
        ("512", 8, "batch_size='512'"),
        (0, 8, "batch_size=0"),
        (32, 8.0, r"micro_batch_size=8\.0"),
        (33, 8, "multiple of 16"),
    ],
)
def test_batches_are_whole_numbers_that_fit(batch_size: Any, micro_batch_size: Any, line: str) -> None:
    assert settings.accumulation(32, 8, 2, "") == 2
    with pytest.raises(ValueError, match=line):
        settings.accumulation(batch_size, micro_batch_size, 2, "8 on 2 processes")
