"""Every optimizer that a recipe can name is built and scaled by its rule, or refused in one line."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from anybatch.errors import InputError
from anybatch.optim import Layerwise
from anybatch.optim.muon import MuonAdamW
from anybatch.recipes import change, find_recipe
from anybatch.recipes.change import as_another_optimizer
from anybatch.recipes.optimizers import OPTIMIZERS, build_optimizer, find_optimizer
from anybatch.recipes.phases import scaled_phase
from anybatch.recipes.recipe import OptimizerSettings
from anybatch.recipes.tasks import build
from anybatch.runs import Run

SETTINGS = {"lr": 0.01, "weight_decay": 0.1}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.norm = nn.LayerNorm(4)
        self.hidden = nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(torch.relu(self.hidden(self.norm(self.embedding(tokens)))))
        return out


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def steps(optimizer: torch.optim.Optimizer, model: nn.Module, count: int = 3) -> list[torch.Tensor]:
    for seed in range(count):
        torch.manual_seed(seed)
        optimizer.zero_grad()
        model(torch.randint(7, (5,))).square().sum().backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_row_takes_a_step_and_reloads(name: str) -> None:
    model, other = net(), net()
    optimizer = build_optimizer(model, OptimizerSettings(name=name), SETTINGS)
    before = steps(optimizer, model, 0)
    steps(optimizer, model, 2)
    assert all(not torch.equal(x, y) for x, y in zip(before, model.parameters(), strict=True))
    again = build_optimizer(other, OptimizerSettings(name=name), SETTINGS)
    other.load_state_dict(model.state_dict())
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for x, y in zip(steps(optimizer, model), steps(again, other), strict=True):
        assert torch.equal(x, y)


def test_muon_takes_the_matrices_of_hidden_layers_and_adamw_the_rest() -> None:
    model = net()
    optimizer = build_optimizer(model, OptimizerSettings(name="muon"), SETTINGS)
    taken = {id(p): group["optimizer"] for group in optimizer.param_groups for p in group["params"]}
    assert {name: taken[id(p)] for name, p in model.named_parameters()} == {
        "embedding.weight": "adamw", "norm.weight": "adamw", "norm.bias": "adamw", "hidden.weight": "muon",
        "hidden.bias": "adamw", "head.weight": "adamw", "head.bias": "adamw",
    }  # fmt: skip


def test_muon_equals_the_two_optimizers_side_by_side() -> None:
    model, other = net(), net()
    optimizer = build_optimizer(model, OptimizerSettings(name="muon"), SETTINGS)
    matrix = [other.hidden.weight]
    decayed = [other.embedding.weight, other.head.weight]
    rest = [other.norm.weight, other.norm.bias, other.hidden.bias, other.head.bias]
    muon = torch.optim.Muon(matrix, lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=0.01
    )
    for seed in range(4):
        for each in (model, other):
            torch.manual_seed(seed)
            each.zero_grad()
            each(torch.randint(7, (5,))).square().sum().backward()
        optimizer.step()
        muon.step()
        adamw.step()
    for x, y in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(x, y)


def test_a_model_without_hidden_matrices_is_refused() -> None:
    with pytest.raises(InputError, match="no matrix of a hidden layer"):
        build_optimizer(nn.Linear(3, 2), OptimizerSettings(name="muon"), SETTINGS)


def test_layerwise_rows_are_the_general_strategy() -> None:
    model = net()
    optimizer = build_optimizer(model, OptimizerSettings(name="layerwise-muon", options={"phi": [0.1, 10.0]}), SETTINGS)
    assert isinstance(optimizer, Layerwise)
    assert isinstance(optimizer.base, MuonAdamW)
    assert optimizer.param_groups[0]["phi"] == [0.1, 10.0]
    before = model.hidden.weight.detach().clone()
    steps(optimizer, model, 1)
    moved = (model.hidden.weight - before).norm() / before.norm()
    assert moved.item() == pytest.approx(0.01, rel=1e-4), "an adapted layer moves by lr times its norm"


class Mine(torch.optim.SGD):
    def __init__(self, params: Any, lr: float = 0.1, momentum: float = 0.5, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay)


def test_a_class_of_the_users_own_is_named_by_module_and_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_optimizers.py").write_text(
        "import torch\nclass Mine(torch.optim.SGD):\n    pass\nclass Other:\n    pass\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    optimizer = build_optimizer(
        net(), OptimizerSettings(name="my_optimizers:Mine", options={"momentum": 0.5}), SETTINGS
    )
    assert type(optimizer).__name__ == "Mine"
    assert optimizer.param_groups[0]["momentum"] == 0.5
    for name, message in {
        "my_optimizers:Nobody": "the module my_optimizers has no Nobody",
        "my_optimizers:Other": "Other is no torch.optim.Optimizer",
        "no_such_module:X": "importing no_such_module failed",
        "lam": "must be one of lamb, .*or MODULE:CLASS",
    }.items():
        with pytest.raises(InputError, match=message):
            find_optimizer(name)


def flat(settings: dict[str, Any]) -> dict[str, Any]:
    first, second = settings["betas"]
    return {**settings, "betas": 2, "beta1": first, "beta2": second}


def hyperparameters(*assignments: str, recipe: str = "bert-tiny") -> dict[str, Any]:
    return scaled_phase(change(find_recipe(recipe), assignments), 0, 10_000).optimizer


def test_a_recipe_s_rule_scales_the_optimizer_s_own_defaults() -> None:
    adamw = as_another_optimizer("adamw")
    found = hyperparameters(*adamw, "reference.rule=sde", "phases.0.batch_size=128", "reference.lr=0.001")
    expected = {"lr": 0.002, "betas": (0.6, 0.996), "eps": 0.5e-6, "weight_decay": 0.02}
    assert flat(found) == pytest.approx(flat(expected))


def test_what_the_optimizer_sets_acts_after_scaling() -> None:
    found = hyperparameters(
        "reference.rule=sde", "reference.betas=[0.95,0.99]", "phases.0.batch_size=64", "optimizer.weight_decay=0.3",
        "optimizer.options.eps=1e-5",
    )  # fmt: skip
    expected = {"lr": 0.01 * 2**0.5, "betas": (0.9, 0.98), "eps": 1e-5, "weight_decay": 0.3}
    assert flat(found) == pytest.approx(flat(expected))


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["optimizer.name=momentum", "reference.rule=sde"], "momentum has no betas for it to scale"),
        (["optimizer.name=adagrad", "reference.rule=half-life"], "adagrad has no betas for it to scale"),
        (["optimizer.name=momentum", "reference.betas=[0.9,0.99]"], r"reference.betas = .*: momentum takes no betas"),
        (["reference.rule=sde", "phases.0.batch_size=512"], r"phases.0: batch_size=512 takes .* largest batch is 320"),
    ],
)
def test_a_rule_that_does_not_fit_is_one_line(assignments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        hyperparameters(*assignments)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("reference.betas=[0.9, 1.0]", r"^reference\.betas=\(0\.9, 1\.0\): beta2=1\.0 is not in \[0, 1\)"),
        ("reference.rule=cube", "reference.rule = 'cube'"),
        ("reference.momentum=1", r"^reference\.momentum=1\.0 is not in \[0, 1\)"),
    ],
)
def test_a_field_out_of_its_bounds_is_named(assignment: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        change(find_recipe("bert-tiny"), [assignment])


def test_an_optimizer_is_built_where_its_model_computes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """fused=True then asks for the kernels of that device, and not for the CPU's."""
    monkeypatch.setattr("anybatch.recipes.tasks.local_device", lambda: torch.device("meta"))
    recipe = find_recipe("digits-lenet")
    job = build(recipe, Run(tmp_path))
    assert {p.device.type for group in job.optimizer.param_groups for p in group["params"]} == {"meta"}
    with pytest.raises(InputError, match="there are no fused kernels for meta"):
        build(change(recipe, ["optimizer.name=lamb", "optimizer.options.fused=true"]), Run(tmp_path))
