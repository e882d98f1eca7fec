"""Optimizers that other libraries rebuild, wrap, refill or give more groups to: no setting is lost on the way."""

import copy
import pickle
from collections import defaultdict
from typing import Any

import pytest
import torch

from anybatch.optim import LAMB, LARS, Layerwise, param_groups

P = torch.nn.Parameter


def model() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.LayerNorm(6))


class Distributed(torch.optim.Optimizer):
    """As in Horovod and BytePS, whose optimizers are made of this by `type(...)` and know the groups alone."""

    def __init__(self, params: Any) -> None:
        super(self.__class__, self).__init__(params)


def rebuilt(optimizer: Any, groups: Any) -> Any:
    kind = type(optimizer)
    return type(kind.__name__, (kind,), dict(Distributed.__dict__))(groups)


GROUPS = {
    "the groups": lambda groups: groups,
    "copies": lambda groups: [dict(group) for group in groups],
    "a generator": lambda groups: (group for group in groups),
}


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize(
    "make",
    [
        lambda groups: LAMB(groups, lr=0.3, betas=(0.5, 0.6), nesterov="m", max_grad_norm=0.7, nonfinite="skip"),
        lambda groups: LARS(groups, lr=0.3, form="lars-2017", momentum=0.5, max_grad_norm=0.7, nonfinite="raise"),
    ],
    ids=["lamb", "lars"],
)
def test_one_made_of_the_groups_of_another_has_its_settings(make: Any, groups: Any) -> None:
    old = make(param_groups(model()))
    for former in (old, copy.deepcopy(old), pickle.loads(pickle.dumps(old))):
        new = rebuilt(former, groups(former.param_groups))
        assert (new.max_grad_norm, new.nonfinite) == (old.max_grad_norm, old.nonfinite)
        assert new.defaults == old.defaults
        new.add_param_group({"params": [P(torch.ones(2))]})
        settings = [{k: v for k, v in g.items() if k not in ("params", "param_names")} for g in new.param_groups]
        assert settings[:2] == [
            {k: v for k, v in g.items() if k not in ("params", "param_names")} for g in old.param_groups
        ]
        assert settings[2] == old.defaults


def test_what_is_said_goes_before_what_is_found() -> None:
    groups = param_groups(model())
    LAMB(groups, max_grad_norm=1.0)
    old = LAMB(groups, max_grad_norm=2.0)
    assert LAMB(old.param_groups, max_grad_norm=3.0).max_grad_norm == 3.0
    assert LAMB(param_groups(model())).max_grad_norm is None
    other = model()
    LAMB(param_groups(other), max_grad_norm=1.0)
    assert LAMB(param_groups(other)).max_grad_norm is None, "new groups of the same parameters begin anew"


def test_a_rate_is_needed_from_somebody() -> None:
    p = P(torch.ones(2))
    with pytest.raises(ValueError, match="lr=None is not at least 0 and finite"):
        LARS([p])
    assert LARS([{"params": [p], "lr": 0.1}]).param_groups[0]["lr"] == 0.1


def test_groups_do_not_make_a_layerwise() -> None:
    old = Layerwise(torch.optim.AdamW(param_groups(model())))
    with pytest.raises(TypeError, match=r"base is a list, .*; groups do not make a Layerwise"):
        rebuilt(old, old.param_groups)


def test_a_group_of_a_shared_rate_has_a_tensor_of_its_own(kind: Any) -> None:
    rate = torch.tensor(0.1)
    optimizer = kind.make(param_groups(model()), lr=rate)
    assert optimizer.param_groups[0]["lr"] is rate
    optimizer.add_param_group({"params": [("late", P(torch.ones(2)))]})

    def cut(each: Any, scheduled: Any = torch.optim.lr_scheduler.ReduceLROnPlateau) -> None:
        scheduler = scheduled(each, patience=0, factor=0.5)
        for _ in range(2):
            scheduler.step(1.0)

    cut(optimizer)
    assert [group["lr"].item() for group in optimizer.param_groups] == pytest.approx([0.05] * 3)
    optimizer.add_param_group({"params": [("later", P(torch.ones(2)))]})
    assert optimizer.param_groups[3]["lr"].item() == pytest.approx(0.1), "as a number would be"
    saved = optimizer.state_dict()
    for group in saved["param_groups"]:
        group["lr"] = saved["param_groups"][0]["lr"]  # as PyTorch's own optimizers share and save it
    optimizer.load_state_dict(saved)
    for other in (optimizer, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        cut(other)
        assert [group["lr"].item() for group in other.param_groups] == pytest.approx([0.025] * 4)


def test_groups_with_names_and_without_are_mixed(kind: Any) -> None:
    named = kind.make(param_groups(model()), lr=0.1)
    named.add_param_group({"params": [P(torch.ones(2)), P(torch.ones(2))]})
    named.add_param_group({"params": P(torch.ones(2))})
    named.add_param_group({"params": []})
    named.add_param_group({"params": ((f"head.{i}", P(torch.ones(2))) for i in range(2))})
    unnamed = kind.make([P(torch.ones(2))], lr=0.1)
    unnamed.add_param_group({"params": [("head", P(torch.ones(2)))]})
    for optimizer, names in (
        (named, ["0.weight", "0.bias", "1.weight", "1.bias", "2.0", "2.1", "3.0", "head.0", "head.1"]),
        (unnamed, ["0.0", "head"]),
    ):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        optimizer.step()
        assert list(optimizer.trust_ratios()) == names
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        optimizer.step()


def test_parameters_put_into_a_group_by_hand_are_looked_at_and_named(kind: Any) -> None:
    p, q = P(torch.ones(2)), P(torch.ones(3, 2))
    optimizer = kind.make([("w", p)], lr=0.1)
    p.grad, q.grad = torch.ones(2), torch.ones(3, 2)
    optimizer.step()
    optimizer.param_groups[0]["params"].append(q)
    optimizer.step()
    assert list(optimizer.trust_ratios()) == ["w", "0.1"]
    optimizer.param_groups[0]["params"].append(P(torch.ones(2, dtype=torch.complex64)))
    with pytest.raises(TypeError, match=r"0\.2 has dtype torch\.complex64"):
        optimizer.step()


def test_groups_state_and_defaults_can_be_set(kind: Any) -> None:
    """As Lightning's BaseFinetuning does when a run goes on."""
    p, q = P(torch.ones(2)), P(torch.ones(3, 2))
    optimizer = kind.make([("v", p), ("w", q)], lr=0.1)
    p.grad, q.grad = torch.ones(2), torch.ones(3, 2)
    optimizer.step()
    (group,) = optimizer.param_groups
    optimizer.param_groups = [
        {**group, "params": [q], "param_names": ["w"]},
        {**group, "params": [p], "param_names": ["v"]},
    ]
    optimizer.state = defaultdict(dict)
    optimizer.defaults = {**optimizer.defaults, "lr": 0.2}
    optimizer.step()
    assert list(optimizer.trust_ratios()) == ["w", "v"]
    optimizer.param_groups = optimizer.param_groups[1:]  # the matrix is gone; what stays is no flat tensor
    optimizer.step()
    assert list(optimizer.trust_ratios()) == ["v"]


def test_one_name_for_two_parameters_is_told_with_the_remedy(kind: Any) -> None:
    first, second = model(), model()
    with pytest.raises(ValueError, match=r"two parameters are named 0\.weight, .*: give several models names of"):
        kind.make([*param_groups(first), *param_groups(second)], lr=0.1)
    both = torch.nn.ModuleDict({"first": first, "second": second})
    optimizer = kind.make(param_groups(both), lr=0.1)
    assert "second.0.weight" in optimizer.param_groups[0]["param_names"]


# ------------------------------------------------------------------------------------------------ flat parameters


def flat(optimizer: Any, group: Any, part: Any, cls: Any) -> None:
    """What ZeRO does with a group: a part of all its parameters, laid end to end, in their place."""
    whole = torch.cat([p.detach().reshape(-1) for p in optimizer.param_groups[group]["params"]])
    piece = whole[: whole.numel() // part].clone().requires_grad_()
    piece = cls(piece.detach()) if cls is P else piece
    piece.grad = torch.ones_like(piece)
    optimizer.param_groups[group]["params"] = [piece]


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("cls", [torch.Tensor, P])
@pytest.mark.parametrize("part", [1, 2, 4])
@pytest.mark.parametrize("group", [0, 1])
def test_a_flat_group_is_refused_by_name(kind: Any, group: Any, part: Any, cls: Any, after: Any, named: Any) -> None:
    network = model()
    groups = param_groups(network)
    if not named:
        groups = [{**each, "params": [p for _, p in each["params"]]} for each in groups]
    optimizer = kind.make(groups, lr=0.1)
    for p in network.parameters():
        p.grad = torch.ones_like(p)
    for _ in range(after):
        optimizer.step()
    flat(optimizer, group, part, cls)
    (piece,) = optimizer.param_groups[group]["params"]
    before = piece.detach().clone()
    with pytest.raises(
        TypeError, match=rf"group {group} holds a flat tensor .* as under DeepSpeed's ZeRO .*fully_shard"
    ):
        optimizer.step()
    assert torch.equal(piece, before)


def test_stage_3_which_brings_one_flat_part_after_the_other_is_refused(kind: Any) -> None:
    network = model()
    optimizer = kind.make(param_groups(network), lr=0.1)
    for group in optimizer.param_groups:
        group["params"] = []
    optimizer.step()
    piece = torch.zeros(7, requires_grad=True)
    piece.grad = torch.ones(7)
    optimizer.param_groups[0]["params"] = [piece]
    with pytest.raises(TypeError, match="group 0 holds a flat tensor of 7 elements in place of its parameters"):
        optimizer.step()


@pytest.mark.parametrize(
    ("marks", "library"),
    [
        ({"_is_flat_param": True}, r"FSDP1 \(FullyShardedDataParallel\)"),
        ({"_fsdp_flattened": True}, "FSDP1"),
        ({"ds_id": 0, "ds_tensor": torch.ones(2)}, "DeepSpeed's ZeRO, stage 3"),
        ({"_param_numels": [1, 1]}, "fairscale's FSDP"),
        ({"_is_sharded": True}, "fairscale's FSDP"),
    ],
)
def test_parameters_that_a_library_has_cut_up_are_refused_by_its_name(kind: Any, marks: Any, library: str) -> None:
    p, whole = P(torch.ones(2)), P(torch.ones(2))
    for mark, value in marks.items():
        setattr(p, mark, value)
        setattr(whole, mark, False)
    with pytest.raises(TypeError, match=rf"w belongs to {library}.*fully_shard"):
        kind.make([("w", p)], lr=0.1)
    kind.make([("w", whole)], lr=0.1)


def test_parameters_may_be_replaced_one_by_one(kind: Any) -> None:
    """Masters in fp32 (apex, DeepSpeed's FP16_UnfusedOptimizer), and points that are split, are no flat groups."""
    network = model()
    optimizer = kind.make(param_groups(network), lr=0.1)
    for group in optimizer.param_groups:
        group["params"] = [p.detach().clone().requires_grad_() for p in group["params"]]
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    optimizer.step()
    longer = P(torch.ones(9))
    longer.grad = torch.ones(9)
    optimizer.param_groups[1]["params"][0] = longer
    optimizer.step()
    assert len(optimizer.trust_ratios()) == 4
