"""torch's own machinery around an optimizer; the table in docs/integrations.md names these tests and others."""

import copy
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.loops import by_hand, examples, network
from torch.optim import lr_scheduler, swa_utils

from anybatch import LAMB, LARS, Layerwise, param_groups

ROOT = Path(__file__).resolve().parents[2]
MAKERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "lamb": lambda groups: LAMB(groups, lr=0.1),
    "lars": lambda groups: LARS(groups, lr=0.1, momentum=0.9),
    "layerwise": lambda groups: Layerwise(torch.optim.SGD(groups, lr=0.1, momentum=0.9)),
}
# How each scheduler of PyTorch's is made; a new one has no row, and fails below.
SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.5, 3), lr_scheduler.ExponentialLR(o, 0.9)], o
    ),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 3),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 8),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 3, cycle_momentum="momentum" in o.defaults),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, 4),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 5], 0.5),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.9),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.2, total_steps=8),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 8),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, 1.0, 3), lr_scheduler.CosineAnnealingLR(o, 5)], [3]
    ),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3),
}


def test_every_scheduler_of_pytorchs_has_a_row() -> None:
    known = {
        name
        for name, value in vars(lr_scheduler).items()
        if inspect.isclass(value) and issubclass(value, lr_scheduler.LRScheduler) and not name.startswith("_")
    }
    assert known - {"LRScheduler"} == set(SCHEDULERS)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_sets_the_rate_and_is_resumed(name: str, kind: str) -> None:
    """The rates are SGD's under the same scheduler, the steps follow them, and a resumed copy goes on equally."""
    model, plain = network(), torch.nn.Parameter(torch.ones(2))
    optimizer = MAKERS[kind](param_groups(model))
    other = torch.optim.SGD([plain], lr=0.1, momentum=0.9)
    if "momentum" not in optimizer.defaults and "betas" not in optimizer.defaults:
        pytest.fail("neither momentum nor betas")
    mine, theirs = SCHEDULERS[name](optimizer), SCHEDULERS[name](other)
    arguments = (1.0,) if name == "ReduceLROnPlateau" else ()
    x, labels = examples(32)

    def step(model: Any, optimizer: Any, scheduler: Any) -> None:
        model(x, labels)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step(*arguments)

    for turn in range(7):
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([other.param_groups[0]["lr"]] * 2)
        if turn == 4:
            again = network()
            again.load_state_dict(model.state_dict())
            resumed = MAKERS[kind](param_groups(again))
            rest = SCHEDULERS[name](resumed)
            resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            rest.load_state_dict(copy.deepcopy(mine.state_dict()))
        step(model, optimizer, mine)
        if turn >= 4:
            step(again, resumed, rest)
        other.step()
        theirs.step(*arguments)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("kind", MAKERS)
def test_averages_of_weights_and_their_schedule(kind: str) -> None:
    """AveragedModel is the mean of the weights after each step; SWALR anneals to its rate; update_bn runs."""
    model = network()
    optimizer = MAKERS[kind](param_groups(model))
    averaged = swa_utils.AveragedModel(model)
    schedule = swa_utils.SWALR(optimizer, swa_lr=0.02, anneal_epochs=4)
    seen: list[torch.Tensor] = []

    class Both:
        def step(self) -> None:
            schedule.step()
            averaged.update_parameters(model)
            seen.append(torch.cat([p.detach().flatten() for p in model.parameters()]))

    by_hand(model, optimizer, Both(), 6)
    mean = torch.cat([p.detach().flatten() for p in averaged.module.parameters()])
    torch.testing.assert_close(mean, torch.stack(seen).mean(0))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.02)
    ema = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9))
    ema.update_parameters(model)
    swa_utils.update_bn([examples(8)[0]], torch.nn.Sequential(torch.nn.Linear(16, 4), torch.nn.BatchNorm1d(4)))


def rows() -> list[tuple[str, str]]:
    """(what, `file::test`) of the table's rows."""
    text = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
    table = text.partition("## torch itself")[2].partition("\n## ")[0]
    return [
        (line.split("|")[1].strip(), name) for line in table.splitlines() for name in re.findall(r"`(tests/\S+)`", line)
    ]


def test_the_table_has_a_row_for_each_part_of_torch() -> None:
    said = " ".join(what for what, _ in rows())
    for part in (
        "lr_scheduler", "swa_utils", "GradScaler", "torch.compile", "fully_shard", "DistributedDataParallel",
        "ZeroRedundancyOptimizer", "torch.distributed.checkpoint.state_dict", "DTensor",
    ):  # fmt: skip
        assert part in said, part


def test_every_test_that_the_table_names_exists() -> None:
    assert len(rows()) >= 9
    for what, name in rows():
        file, _, test = name.partition("::")
        assert f"\ndef {test.partition('[')[0]}(" in (ROOT / file).read_text(encoding="utf-8"), f"{what}: {name}"
