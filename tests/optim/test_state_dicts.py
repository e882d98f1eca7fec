"""State dicts of other machines, other libraries, other days: taken over, or refused by name and whole."""

import copy
import pickle
from typing import Any

import pytest
import torch

from anybatch.optim import LAMB, LARS, kernels
from anybatch.optim.state_dicts import laid_out_like


def P(values: Any, **kwargs: Any) -> Any:  # noqa: N802
    return torch.nn.Parameter(torch.tensor(values, **kwargs))


def stepped(native: Any, **settings: Any) -> Any:
    """An optimizer with state, and a copy of its state dict."""
    p = P([3.0, 4.0])
    optimizer = native.make([("w", p)], lr=0.1, **settings)
    p.grad = torch.ones(2)
    optimizer.step()
    return optimizer, copy.deepcopy(optimizer.state_dict())


def refused(optimizer: Any, saved: Any, message: str) -> None:
    before = optimizer.state_dict()
    kept = copy.deepcopy(before)
    saved["param_groups"][0]["lr"] = 7.0
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.1
    for name, value in before["state"][0].items():
        assert torch.equal(value, kept["state"][0][name])


def test_fused_where_there_are_no_kernels(native: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer, saved = stepped(native, fused=False)
    saved["param_groups"][0]["fused"] = True
    monkeypatch.setattr(kernels, "kernels_for", lambda device_type: "not compiled")
    refused(optimizer, saved, "fused=True: not compiled; fused=None, in a saved group too, takes the fastest path")
    saved["param_groups"][0]["fused"] = None
    optimizer.load_state_dict(saved)
    optimizer.step()


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("step", [1, 1.0, torch.tensor(1), torch.tensor(1.0, dtype=torch.float64)], ids=repr)
def test_steps_that_others_keep_as_numbers(step: Any, fused: Any) -> None:
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
def test_steps_that_are_none(step: Any, message: str) -> None:
    p = P([3.0, 4.0])
    optimizer = LAMB([("w", p)], lr=0.1)
    p.grad = torch.ones(2)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["step"] = step
    refused(optimizer, saved, message)


@pytest.mark.parametrize("value", [None, 0.5])
def test_moments_that_are_none(native: Any, value: Any) -> None:
    optimizer, saved = stepped(native)
    name = optimizer._state_names[-1]
    saved["state"][0][name] = value
    lacks = rf"the state of w lacks {name}; it has (step, exp_avg$|nothing$)"
    refused(optimizer, saved, lacks if value is None else rf"{name} of w is 0\.5, not a tensor")


def test_a_master_of_none_is_made_anew(native: Any) -> None:
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
def test_a_saved_group_is_checked_as_a_new_one(cls: Any, key: Any, value: Any, message: str) -> None:
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
def test_a_parameter_that_has_outgrown_its_state_is_named_before_anything_moves(
    native: Any, path: Any, change: Any
) -> None:
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


def test_the_state_dict_goes_into_a_new_optimizer_of_another_dtype(native: Any) -> None:
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
def test_a_process_group_is_not_copied(native: Any, twin: Any) -> None:
    optimizer, _ = stepped(native)
    optimizer.process_group = object()
    with pytest.raises(TypeError, match="process_group is a connection of this process"):
        twin(optimizer)
    optimizer.process_group = None
    twin(optimizer)


# ------------------------------------------------------------------------------------------- what was not saved


def adamw(params: Any) -> Any:
    optimizer = torch.optim.AdamW(params, lr=0.5)
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    optimizer.step()
    return copy.deepcopy(optimizer.state_dict())


@pytest.mark.parametrize("through", ["itself", "its base"])
def test_what_a_saved_group_lacks_stays_as_it_was(kind: Any, through: Any) -> None:
    """AdamW knows nothing of layers; a state that was saved by an older version knows nothing of what came later."""
    p, q = P([[1.0, 2.0], [3.0, 4.0]]), P([1.0, 2.0])
    own = {"adapt": False, "blocks": 2, "phi": (0.5, 2.0), "trust_clip": (0.1, 5.0), "norm": "l1", "extra": "mine"}
    groups = [{"params": [p], **own}, {"params": [q], "trust_clip": (0.2, 3.0)}]
    optimizer = kind.make(groups, lr=0.1)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    saved = adamw([{"params": [p]}, {"params": [q]}])
    if kind.name == "lars":
        saved["state"] = {}
    loader = optimizer.base if kind.name == "layerwise" and through == "its base" else optimizer
    loader.load_state_dict(saved)
    first, second = optimizer.param_groups
    assert {key: first[key] for key in own} == own
    assert (second["trust_clip"], second["adapt"], second["initial_lr"]) == ((0.2, 3.0), True, 0.1)
    assert first["lr"] == second["lr"] == 0.5, "what was saved is loaded"
    assert "adapt" not in saved["param_groups"][0], "nothing is written into what was given"
    optimizer.step()
    assert optimizer.trust_ratios()["0.0[0]"].ratio == 1


def test_a_setting_that_was_saved_goes_before_the_own(kind: Any) -> None:
    p = P([[1.0, 2.0], [3.0, 4.0]])
    old = kind.make([{"params": [p], "adapt": False, "blocks": 2}], lr=0.3)
    new = kind.make([{"params": [p], "phi": (0.0, 9.0)}], lr=0.1)
    new.load_state_dict(copy.deepcopy(old.state_dict()))
    group = new.param_groups[0]
    assert (group["adapt"], group["blocks"], group["lr"], group["phi"]) == (False, 2, 0.3, old.defaults["phi"])


# ------------------------------------------------------------------------------------------- what is not ours


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_others_keep_in_a_state_is_loaded_untouched(native: Any, dtype: torch.dtype) -> None:
    p, q = P([3.0, 4.0], dtype=dtype), P([1.0, 2.0], dtype=dtype)
    theirs = {
        "x": torch.tensor(3),
        "slow": p.detach().clone(),
        "exact": torch.tensor([0.1, 0.2], dtype=torch.float64),
        "flags": torch.tensor([True, False, True]),
        "name": "lookahead",
        "several": [torch.tensor([1.5], dtype=torch.float16), {"deep": torch.arange(3)}],
        "nothing": None,
    }
    optimizer = native.make([("v", p), ("w", q)], lr=0.1)
    p.grad = torch.ones_like(p)
    optimizer.state[p].update(theirs)  # before the first step, as a wrapper does that is made early
    optimizer.step()
    optimizer.state[q].update(theirs)  # of a parameter that is never stepped
    optimizer.state["global"] = {"k": 3}
    saved = copy.deepcopy(optimizer.state_dict())
    new = native.make([("v", p), ("w", q)], lr=0.1)
    new.load_state_dict(saved)
    for each in (p, q):
        state = new.state[each]
        assert theirs.keys() <= state.keys()
        for name in ("x", "slow", "exact", "flags"):
            assert torch.equal(state[name], theirs[name]), name
            assert state[name].dtype == theirs[name].dtype, name
        assert (state["name"], state["nothing"]) == ("lookahead", None)
        assert state["several"][0].dtype == torch.float16
        assert torch.equal(state["several"][1]["deep"], torch.arange(3))
    assert new.state["global"] == {"k": 3}
    assert new.state[p][native.make([P([1.0])])._state_names[-1]].dtype == torch.float32
    q.grad = torch.ones_like(q)
    new.step()
    assert theirs.keys() < new.state[q].keys()


def test_a_state_that_is_all_somebody_elses_is_refused(native: Any) -> None:
    p = P([3.0, 4.0])
    other = torch.optim.Adagrad([p])
    p.grad = torch.ones(2)
    other.step()
    with pytest.raises(ValueError, match=r"the state of w lacks .*; it has step, sum"):
        native.make([("w", p)], lr=0.1).load_state_dict(other.state_dict())


def test_half_a_state_is_named_before_anything_moves() -> None:
    p, q = P([3.0, 4.0]), P([1.0, 2.0])
    optimizer = LAMB([("v", p), ("w", q)], lr=0.1)
    p.grad = q.grad = torch.ones(2)
    optimizer.step()
    before = p.detach().clone()
    del optimizer.state[q]["exp_avg"]
    with pytest.raises(RuntimeError, match="the state of w lacks exp_avg: clear it to begin anew; no parameter"):
        optimizer.step()
    assert torch.equal(p, before)


@pytest.mark.parametrize("state", [None, 3, torch.ones(2), [1]], ids=repr)
def test_a_state_that_is_no_dict_is_named(native: Any, state: Any) -> None:
    optimizer, saved = stepped(native)
    saved["state"][0] = state
    refused(optimizer, saved, r"the state of w is .*, not a dict")


def test_a_state_of_nothing_in_the_groups_is_kept_as_it_is(native: Any) -> None:
    optimizer, saved = stepped(native)
    saved["state"].update({"clock": 7, 99: [1, 2], "table": {"step": 3}})
    optimizer.load_state_dict(saved)
    assert (optimizer.state["clock"], optimizer.state[99], optimizer.state["table"]) == (7, [1, 2], {"step": 3})
    optimizer.step()


def test_a_state_is_copied_only_if_it_lies_otherwise_than_a_new_one() -> None:
    """A new state of a parameter with gaps has none; a state that has the parameter's own gaps is as good."""
    whole, gaps = torch.randn(2, 3, 4, 4), torch.randn(6, 8)[:, ::2]
    last = whole.to(memory_format=torch.channels_last)
    for parameter, state, stays in [
        (whole, torch.randn(2, 3, 4, 4), True),
        (last, torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last), True),
        (last, torch.randn(2, 3, 4, 4), False),
        (whole, torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last), False),
        (gaps, torch.randn(6, 4), True),
        (gaps, torch.randn(6, 8)[:, ::2], True),
        (gaps, torch.randn(4, 6).t(), False),
    ]:
        laid = laid_out_like(parameter, state)
        assert (laid is state) == stays
        assert torch.equal(laid, state)
        assert laid.stride() in (parameter.stride(), torch.zeros_like(parameter).stride())


@pytest.mark.parametrize("way", [lambda x: x, lambda x: x.to(memory_format=torch.channels_last)], ids=["", "last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_loaded_state_lies_as_its_parameter(native: Any, way: Any, dtype: torch.dtype) -> None:
    x = torch.linspace(-1, 2, 96).view(2, 3, 4, 4)
    p, q = (torch.nn.Parameter(way(x).to(dtype)) for _ in range(2))
    old, new = (native.make([t], lr=0.1, master_weights=True) for t in (p, q))
    p.grad = torch.ones_like(p)
    old.step()
    for other in (torch.contiguous_format, torch.channels_last):
        saved = copy.deepcopy(old.state_dict())
        for name, value in saved["state"][0].items():
            if value.ndim:
                saved["state"][0][name] = value.contiguous(memory_format=other)
        new.load_state_dict(saved)
        for name, value in new.state[q].items():
            assert torch.equal(value, old.state[p][name])
            assert value.stride() == (q.stride() if value.ndim else ()), name


# ------------------------------------------------------------------------------------------- whose state it is


@pytest.mark.parametrize("through", ["itself", "its base"])
def test_a_parameter_is_found_by_its_name(kind: Any, through: Any) -> None:
    a, b, c = P([1.0, 1.0]), P([2.0, 2.0]), P([[3.0, 3.0]])
    old = kind.make([{"params": [("a", a), ("b", b)]}, {"params": [("c", c)]}], lr=0.1)
    for p, value in ((a, 1.0), (b, 5.0), (c, 7.0)):
        p.grad = torch.full_like(p, value)
    old.step()
    new = kind.make([{"params": [("b", b), ("a", a)]}, {"params": [("c", c)]}], lr=0.1)
    loader = new.base if kind.name == "layerwise" and through == "its base" else new
    loader.load_state_dict(copy.deepcopy(old.state_dict()))
    for p in (a, b, c):
        for name, value in old.state[p].items():
            assert torch.equal(new.state[p][name], value)
    assert [group["param_names"] for group in new.param_groups] == [["b", "a"], ["c"]]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([["c", "b"], ["a"]], r"a is parameter 0 of group 0 in the saved state, and parameter 0 of group 1 here"),
        ([["b", "new"], ["c"]], r"b is parameter 1 of group 0 in the saved state, and parameter 0 of group 0 here"),
        ([["new", "a"], ["c"]], r"a is parameter 0 of group 0 in the saved state, and parameter 1 of group 0 here"),
    ],
)
def test_a_name_at_another_place_is_refused(kind: Any, names: Any, message: str) -> None:
    a, b, c = P([1.0, 1.0]), P([2.0, 2.0]), P([3.0, 3.0])
    old = kind.make([{"params": [("a", a), ("b", b)]}, {"params": [("c", c)]}], lr=0.1)
    a.grad = b.grad = c.grad = torch.ones(2)
    old.step()
    others = [{"params": [(name, P([1.0, 1.0])) for name in group]} for group in names]
    new = kind.make(others, lr=0.7)
    with pytest.raises(ValueError, match=f"{message}: make the groups as they were.*nothing was loaded"):
        new.load_state_dict(copy.deepcopy(old.state_dict()))
    assert not new.state
    assert new.param_groups[0]["lr"] == 0.7


@pytest.mark.parametrize("names", [["module.a", "module.b"], ["a", "new"], None])
def test_other_names_are_taken_by_place_and_the_own_stay(kind: Any, names: Any) -> None:
    a, b = P([1.0, 1.0]), P([2.0, 2.0])
    old = kind.make([("a", a), ("b", b)], lr=0.1)
    a.grad, b.grad = torch.ones(2), torch.full((2,), 5.0)
    old.step()
    new = kind.make([a, b] if names is None else list(zip(names, [a, b], strict=True)), lr=0.1)
    new.load_state_dict(copy.deepcopy(old.state_dict()))
    for p in (a, b):
        assert all(torch.equal(new.state[p][name], value) for name, value in old.state[p].items())
    assert new.param_groups[0]["param_names"] == (names or ["a", "b"])


def test_what_distributed_checkpoints_call_by_name_is_not_ordered_twice(kind: Any) -> None:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    model = torch.nn.ParameterDict({"a": P([1.0, 1.0]), "b": P([2.0, 2.0])})
    named = list(model.named_parameters())
    old = kind.make(named, lr=0.1)
    for value, (_, p) in zip((1.0, 5.0), named, strict=True):
        p.grad = torch.full_like(p, value)
    old.step()
    saved = copy.deepcopy(get_optimizer_state_dict(model, old))
    new = kind.make(named[::-1], lr=0.1)
    set_optimizer_state_dict(model, new, saved)
    for _, p in named:
        assert all(torch.equal(new.state[p][name], value) for name, value in old.state[p].items())
    assert new.param_groups[0]["param_names"] == ["b", "a"]
