"""timm's registry makes anybatch's optimizers; its files are loaded by path: timm as a whole needs torchvision."""

import importlib
import sys
import types
from typing import Any

import pytest
import torch
from support import peers
from torch import nn

from anybatch import LAMB, LARS, param_groups
from anybatch.integrations.timm import register


@pytest.fixture
def factory(monkeypatch: pytest.MonkeyPatch) -> Any:
    models = types.ModuleType("timm.models")
    # Of the decay of rates over layers, which is not asked for.
    models.group_parameters = None  # type: ignore[attr-defined]
    peers.timm("lamb")
    monkeypatch.setitem(sys.modules, "timm", types.ModuleType("timm"))
    monkeypatch.setitem(sys.modules, "timm.models", models)
    found = importlib.import_module("timm_optim._optim_factory")
    register(found)
    return found


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def stepped(net: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    torch.manual_seed(1)
    for _ in range(3):
        net(torch.randn(4, 1, 8, 8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return [p.detach() for p in net.parameters()]


@pytest.mark.parametrize("name", ["anybatchlamb", "anybatchlars"])
def test_create_optimizer_v2_makes_the_step_of_param_groups(name: str, factory: Any) -> None:
    theirs, ours = model(), model()
    made = factory.create_optimizer_v2(theirs, name, lr=0.1, weight_decay=0.02, momentum=0.8)
    groups = param_groups(ours, 0.02)
    own = LAMB(groups, lr=0.1) if name == "anybatchlamb" else LARS(groups, lr=0.1, momentum=0.8)
    assert type(made) is type(own)
    for p, other in zip(stepped(theirs, made), stepped(ours, own), strict=True):
        torch.testing.assert_close(p, other, rtol=0, atol=0)


def test_settings_and_groups_of_ones_own_reach_it(factory: Any) -> None:
    made = factory.create_optimizer_v2(
        model(),
        "anybatchlamb",
        lr=0.1,
        betas=(0.8, 0.9),
        param_group_fn=lambda m: param_groups(m, 0.3, adapt_excluded=True),
    )
    assert all(group["adapt"] for group in made.param_groups)
    assert made.param_groups[0]["betas"] == (0.8, 0.9)
    assert [group["weight_decay"] for group in made.param_groups] == [0.3, 0.0]


def test_layer_decay_keeps_its_scales(factory: Any) -> None:
    made = factory.create_optimizer_v2(
        [{"params": [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))], "lr_scale": 0.5}],
        "anybatchlamb",
        lr=0.1,
    )
    assert [(group["adapt"], group["lr_scale"]) for group in made.param_groups] == [(True, 0.5), (False, 0.5)]


def test_a_name_with_an_underscore_is_timms_own_lamb(factory: Any) -> None:
    """timm looks up what follows the last underscore; that is why the registered names have none."""
    made = factory.create_optimizer_v2(model(), "anybatch_lamb", lr=0.1)
    assert not isinstance(made, LAMB)
    assert type(made).__name__ == "Lamb"


def test_registering_twice_changes_nothing(factory: Any) -> None:
    before = factory.list_optimizers("anybatch*")
    register(factory)
    assert factory.list_optimizers("anybatch*") == before == ["anybatchlamb", "anybatchlars"]


def test_timm_as_a_whole_is_used_where_it_can_be_imported() -> None:
    pytest.importorskip("torchvision", reason="timm needs torchvision")
    pytest.importorskip("timm")
    register()
    assert isinstance(importlib.import_module("timm.optim").create_optimizer_v2(model(), "anybatchlamb", lr=0.1), LAMB)
