"""State dicts of other machines, other libraries, other days: taken over, or refused by name and whole."""

import copy
import pickle

import pytest
import torch

from anybatch.optim import LAMB, LARS, kernels


def P(values, **kwargs):  # noqa: N802
    return torch.nn.Parameter(torch.tensor(values, **kwargs))


def stepped(native, **settings):
    """An optimizer with state, and a copy of its state dict."""
    p = P([3.0, 4.0])
    optimizer = native.make([("w", p)], lr=0.1, **settings)
    p.grad = torch.ones(2)
    optimizer.step()
    return optimizer, copy.deepcopy(optimizer.state_dict())


def refused(optimizer, saved, message):
    before = optimizer.state_dict()
    kept = copy.deepcopy(before)
    saved["param_groups"][0]["lr"] = 7.0
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.1
    for name, value in before["state"][0].items():
        assert torch.equal(value, kept["state"][0][name])


def test_fused_where_there_are_no_kernels(native, monkeypatch):
    optimizer, saved = stepped(native, fused=False)
    saved["param_groups"][0]["fused"] = True
    monkeypatch.setattr(kernels, "_module", lambda device_type: "not compiled")
    refused(optimizer, saved, "fused=True: not compiled; fused=None, in a saved group too, takes the fastest path")
    saved["param_groups"][0]["fused"] = None
    optimizer.load_state_dict(saved)
    optimizer.step()


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("step", [1, 1.0, torch.tensor(1), torch.tensor(1.0, dtype=torch.float64)], ids=repr)
def test_steps_that_others_keep_as_numbers(step, fused):
    p, q = P([3.0, 4.0]), P([3.0, 4.0])
    one, other = (LAMB([x], lr=0.1, fused=fused) for x in (p, q))
    p.grad = q.grad = torch.tensor([1.0, -2.0])
    one.step()
    saved = copy.deepcopy(one.state_dict())
    saved["state"][0]["step"] = step
    other.load_state_dict(saved)
    assert other.state[q]["step"].dtype == torch.float32
    assert saved["state"][0]["step"] is step
    q.data.copy_(p.data)
    one.step()
    other.step()
    assert torch.equal(p, q)
    assert one.state[p]["step"] == other.state[q]["step"] == 2


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (torch.ones(1), r"step of w has shape \(1,\), not \(\)"),
        ("1", "step of w is '1', not a number or a 0-d tensor"),
        (None, "the state of w lacks step; it has exp_avg, exp_avg_sq"),
    ],
    ids=repr,
)
def test_steps_that_are_none(step, message):
    p = P([3.0, 4.0])
    optimizer = LAMB([("w", p)], lr=0.1)
    p.grad = torch.ones(2)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["step"] = step
    refused(optimizer, saved, message)


@pytest.mark.parametrize("value", [None, 0.5])
def test_moments_that_are_none(native, value):
    optimizer, saved = stepped(native)
    name = optimizer._state_names[-1]
    saved["state"][0][name] = value
    lacks = rf"the state of w lacks {name}; it has (step, exp_avg$|nothing$)"
    refused(optimizer, saved, lacks if value is None else rf"{name} of w is 0\.5, not a tensor")


def test_a_master_of_none_is_made_anew(native):
    p = P([3.0, 4.0], dtype=torch.bfloat16)
    optimizer = native.make([p], lr=0.1, master_weights=True)
    p.grad = torch.ones_like(p)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["master"] = None
    optimizer.load_state_dict(saved)
    optimizer.step()
    assert optimizer.state[p]["master"].dtype == torch.float32


@pytest.mark.parametrize(
    ("cls", "key", "value", "message"),
    [
        (LAMB, "betas", (0.9, 1.5), r"betas\[1\]=1\.5"),
        (LAMB, "nesterov", "v", "nesterov='v'"),
        (LARS, "momentum", 1.0, r"momentum=1\.0"),
        (LARS, "joint_norm", True, "joint_norm=True has no meaning"),
        (LARS, "foreach", True, "foreach=True and fused=True exclude each other"),
        (LAMB, "capturable", True, "nonfinite='skip' reads a flag"),
    ],
)
def test_a_saved_group_is_checked_as_a_new_one(cls, key, value, message):
    optimizer = cls([P([3.0, 4.0])], lr=0.1, nonfinite="skip")
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0].update({key: value, "fused": key == "foreach"})
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0][key] != value


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ({}, lambda t: t.double()),
        ({"foreach": False}, lambda t: t.double()),
        ({"foreach": True}, lambda t: t.double()),
        ({"foreach": False}, lambda t: t[:1].clone()),
    ],
    ids=["default", "plain", "foreach", "shape"],
)
def test_a_parameter_that_has_outgrown_its_state_is_named_before_anything_moves(native, path, change):
    p, q = P([1.0, 2.0]), P([3.0, 4.0])
    optimizer = native.make([("v", p), ("w", q)], lr=0.1, **path)
    for _ in range(2):
        p.grad = q.grad = torch.ones(2)
        optimizer.step()
    before = copy.deepcopy((p.data, optimizer.state_dict()["state"]))
    q.grad = None
    q.data = change(q.data)
    q.grad = torch.ones_like(q)
    name = optimizer._state_names[-1] if native.name == "lars" else "exp_avg"
    with pytest.raises(RuntimeError, match=rf"{name} of w is torch\.float32 of shape \(2,\), but the parameter"):
        optimizer.step()
    assert torch.equal(p, before[0])
    for index, state in before[1].items():
        assert all(torch.equal(value, optimizer.state_dict()["state"][index][key]) for key, value in state.items())


def test_the_state_dict_goes_into_a_new_optimizer_of_another_dtype(native):
    """What the error advises."""
    optimizer, _ = stepped(native)
    (p,) = optimizer.param_groups[0]["params"]
    p.grad = None
    p.data = p.data.double()
    p.grad = torch.ones_like(p)
    new = native.make([("w", p)], lr=0.1)
    new.load_state_dict(optimizer.state_dict())
    new.step()
    assert new.state[p][new._state_names[-1]].dtype == torch.float64


@pytest.mark.parametrize("twin", [copy.deepcopy, pickle.dumps], ids=["copy", "pickle"])
def test_a_process_group_is_not_copied(native, twin):
    optimizer, _ = stepped(native)
    optimizer.process_group = object()
    with pytest.raises(TypeError, match="process_group is a connection of this process"):
        twin(optimizer)
    optimizer.process_group = None
    twin(optimizer)
