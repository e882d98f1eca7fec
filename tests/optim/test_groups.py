"""What is decayed and what is adapted, by name and module type."""

from typing import Any

import pytest
import torch
from torch import nn

from anybatch.optim import LAMB, param_groups


class LlamaRMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2, 2))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.convolution = nn.Conv2d(1, 2, 3)
        self.norms = nn.ModuleList(
            [
                nn.LayerNorm((2, 4)),
                nn.BatchNorm2d(2),
                nn.GroupNorm(1, 2),
                nn.InstanceNorm1d(2, affine=True),
                nn.RMSNorm((2, 2)),
            ]
        )
        self.third_party = LlamaRMSNorm()
        self.attention = nn.MultiheadAttention(4, 1, add_bias_kv=True)
        self.temperature = nn.Parameter(torch.tensor(1.0))
        self.output = nn.Linear(4, 5)
        self.output.weight = self.embedding.weight
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def names(group: Any) -> Any:
    return [name for name, _ in group["params"]]


def test_biases_norms_and_vectors_are_excluded() -> None:
    decayed, excluded = param_groups(Model(), weight_decay=0.1)
    assert names(decayed) == [
        "embedding.weight", "convolution.weight", "attention.in_proj_weight", "attention.out_proj.weight",
    ]  # fmt: skip
    assert (decayed["weight_decay"], decayed["adapt"]) == (0.1, True)
    assert (excluded["weight_decay"], excluded["adapt"]) == (0.0, False)
    assert {"temperature", "norms.0.weight", "norms.4.weight", "third_party.scale", "attention.bias_k"} <= set(
        names(excluded)
    )
    assert not any(name.startswith("frozen") or name == "output.weight" for name in names(decayed) + names(excluded))


def test_every_trainable_parameter_is_there_once() -> None:
    model = Model()
    found = [p for group in param_groups(model) for _, p in group["params"]]
    assert len(found) == len(set(found))
    assert set(found) == {p for p in model.parameters() if p.requires_grad}
    known = dict(model.named_parameters())
    assert all(known[name] is p for group in param_groups(model) for name, p in group["params"])


def test_adaptation_of_the_excluded_is_a_choice_of_its_own() -> None:
    assert [group["adapt"] for group in param_groups(Model(), adapt_excluded=True)] == [True, True]
    assert [group["weight_decay"] for group in param_groups(Model(), adapt_excluded=True)] == [0.01, 0.0]


def test_empty_groups_are_dropped() -> None:
    assert len(param_groups(nn.Linear(2, 2, bias=False))) == 1
    assert len(param_groups(nn.LayerNorm(2))) == 1
    with pytest.raises(ValueError, match="no trainable parameter"):
        param_groups(nn.Linear(2, 2).requires_grad_(False))
    with pytest.raises(ValueError, match="weight_decay=-1"):
        param_groups(nn.Linear(2, 2), weight_decay=-1)


def test_names_reach_the_ratios() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    optimizer = LAMB(param_groups(model))
    model(torch.ones(1, 2)).square().sum().backward()
    optimizer.step()
    ratios = optimizer.trust_ratios()
    assert list(ratios) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert ratios["0.weight"].ratio != 1
    assert ratios["0.bias"].ratio == 1
