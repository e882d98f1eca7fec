"""Saving, loading, copying, hooks, schedulers: the manners of a torch.optim.Optimizer."""

import copy
import inspect
import io
import math
import pickle
from typing import Any

import pytest
import torch

from anybatch import GradientNoiseScale
from anybatch.optim import LAMB, LARS, Layerwise, param_groups
from anybatch.scaling import schedule


def saved(optimizer: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masters", [False, True], ids=["", "masters"])
def test_a_run_goes_on_exactly_after_loading(kind: Any, problem: Any, dtype: torch.dtype, masters: Any) -> None:
    if kind.name == "layerwise" and (masters or dtype is torch.bfloat16):
        return
    settings = {"master_weights": True} if masters else {}
    params = problem.params(dtype)
    optimizer = kind.make(params, **settings)
    problem.run(optimizer, params, slice(3))
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    resumed = kind.make(others)
    resumed.load_state_dict(saved(optimizer))
    problem.run(optimizer, params, slice(3, None))
    problem.run(resumed, others, slice(3, None))
    for p, x in zip(params, others, strict=True):
        assert torch.equal(p, x)
        assert optimizer.state[p].keys() == resumed.state[x].keys()
        for name, value in optimizer.state[p].items():
            assert torch.equal(value, resumed.state[x][name]), name
            assert value.dtype == resumed.state[x][name].dtype, name
    assert all(group["lr"] == problem.rates[-1] for group in resumed.param_groups)


def test_loading_runs_the_users_hooks_around_the_exact_state(problem: Any) -> None:
    params = problem.params(torch.bfloat16)
    optimizer, seen = LAMB(params), []
    problem.run(optimizer, params)
    resumed = LAMB(problem.params(torch.bfloat16))

    def doubled(_: Any, state_dict: Any) -> Any:
        state = {i: {**s, "exp_avg": s["exp_avg"] * 2} for i, s in state_dict["state"].items()}
        return {**state_dict, "state": state}

    resumed.register_load_state_dict_pre_hook(doubled)
    resumed.register_load_state_dict_post_hook(
        lambda opt: seen.append(dict(opt.state[opt.param_groups[0]["params"][0]]))  # as it is when the hook runs
    )
    resumed.load_state_dict(saved(optimizer))
    assert seen[0]["exp_avg"].dtype == torch.float32
    assert torch.equal(seen[0]["exp_avg"], optimizer.state[params[0]]["exp_avg"] * 2)
    resumed.load_state_dict(saved(optimizer))
    assert len(seen) == 2


PINNED = {
    LAMB: {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-6,
        "weight_decay": 0.01,
        "bias_correction": True,
        "nesterov": None,
    },
    LARS: {
        "lr": None,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "form": "lamb-paper",
        "trust_coefficient": 1.0,
        "joint_norm": False,
        "eps": 0.0,
        "nesterov": False,
    },
    Layerwise: {},
    param_groups: {"weight_decay": 0.01, "adapt_excluded": False},
    schedule: {"warmup_steps": 0, "decay": "polynomial", "power": 1.0, "join": "continuous"},
    GradientNoiseScale: {"optimizer": None, "every": 1, "window": 1000, "ranks": None, "scaler": None},
}
BOUNDED = {"norm": "l2", "phi": (0.0, math.inf), "trust_clip": (0.0, math.inf)}
GATED = {"max_grad_norm": None, "nonfinite": "propagate", "process_group": None}
FAST = {"maximize": False, "foreach": None, "fused": None, "capturable": False, "master_weights": False}
MORE = {LAMB: {**BOUNDED, **GATED, **FAST}, LARS: {**BOUNDED, **GATED, **FAST}, Layerwise: BOUNDED}


@pytest.mark.parametrize("public", PINNED, ids=lambda public: public.__name__)
def test_defaults_of_public_names_are_a_promise(public: Any) -> None:
    parameters = inspect.signature(public).parameters.values()
    found = {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}
    assert found == {**PINNED[public], **MORE.get(public, {})}
    assert all(type(found[name]) is type(value) for name, value in PINNED[public].items())


def test_state_dict_is_pytorchs(kind: Any, problem: Any) -> None:
    params = problem.params()
    optimizer = kind.make(params)
    problem.run(optimizer, params)
    assert optimizer.state_dict().keys() == {"state", "param_groups"}
    if kind.name == "lamb":
        state = optimizer.state[params[0]]
        assert set(state) == {"step", "exp_avg", "exp_avg_sq"}
        assert state["step"].shape == ()
        assert state["step"].dtype == torch.float32
        assert state["step"] == 5


def test_groups_of_an_older_state_dict_get_the_new_keys(kind: Any, problem: Any) -> None:
    params = problem.params()
    optimizer = kind.make(params)
    state_dict = optimizer.state_dict()
    for key in ("adapt", "blocks", "phi"):
        del state_dict["param_groups"][0][key]
    optimizer.load_state_dict(state_dict)
    problem.run(optimizer, params)
    assert optimizer.param_groups[0]["blocks"] == 1


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copy", "pickle"])
def test_copies_go_on_exactly(kind: Any, problem: Any, twin: Any) -> None:
    params = problem.params()
    gate = {} if kind.name == "layerwise" else {"max_grad_norm": 0.5, "nonfinite": "skip"}
    optimizer = kind.make(params, **gate)
    problem.run(optimizer, params, slice(2))
    others, other = twin((params, optimizer))
    assert other.trust_ratios() == optimizer.trust_ratios() != {}
    problem.run(optimizer, params, slice(2, None))
    problem.run(other, others, slice(2, None))
    assert all(torch.equal(p, x) and p is not x for p, x in zip(params, others, strict=True))
    if gate:
        assert (other.max_grad_norm, other.nonfinite, other.skipped_steps) == (0.5, "skip", 0)


def test_closure_runs_with_gradients(kind: Any) -> None:
    p = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = kind.make([p], lr=0.1)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 25.0
    assert p.norm() < 5
    assert optimizer.step() is None


def test_step_hooks_and_scheduler(kind: Any) -> None:
    p = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer, calls = kind.make([p], lr=0.1), []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule(4, 2))
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        p.grad = torch.ones(2)
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.05, 0.1, 0.1, 0.05])
    assert optimizer.param_groups[0]["lr"] == 0
    assert calls == ["before", "after"] * 4


def test_scheduler_fills_a_tensor_lr(kind: Any) -> None:
    p = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    lr = torch.tensor(0.1)
    optimizer = kind.make([p], lr=lr, foreach=False)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule(4, 2))
    p.grad = torch.ones(2)
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] is lr
    assert lr.item() == pytest.approx(0.1)


def test_a_wrong_group_is_not_added(kind: Any) -> None:
    p, q = torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.ones(4))
    optimizer = kind.make([p])
    with pytest.raises(ValueError, match=r"blocks=3 does not divide dimension 0 of 1\.0"):
        optimizer.add_param_group({"params": [q], "blocks": 3})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [q], "blocks": 2})
    q.grad = torch.ones(4)
    optimizer.step()
    assert list(optimizer.trust_ratios()) == ["1.0[0]", "1.0[1]"]


P = torch.nn.Parameter


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1.0}, r"lr=-1\.0 is not at least 0"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"lr": torch.ones(2)}, "lr of shape"),
        ({"lr": math.inf}, "lr=inf is not at least 0 and finite"),
        ({"lr": torch.tensor(math.inf)}, "lr=inf is not at least 0 and finite"),
        ({"lr": None}, "lr=None is not at least 0"),
        ({"lr": "x"}, "lr='x' is not at least 0"),
        ({"weight_decay": -0.1}, r"weight_decay=-0\.1"),
        ({"weight_decay": math.inf}, "weight_decay=inf"),
        ({"weight_decay": "a"}, "weight_decay='a'"),
        ({"eps": math.inf}, "eps=inf"),
        ({"norm": "l3"}, "norm='l3' is not one of 'l2', 'l1', 'linf'"),
        ({"phi": (2.0, 1.0)}, "phi="),
        ({"phi": (-1.0, 1.0)}, "phi="),
        ({"phi": (math.inf, math.inf)}, r"phi=\(inf, inf\)"),
        ({"phi": (None, 1.0)}, r"phi=\(None, 1\.0\)"),
        ({"phi": "01"}, "phi='01' is not a pair"),
        ({"trust_clip": 1.0}, r"trust_clip=1\.0 is not a pair"),
        ({"trust_clip": (0.5, 0.1)}, "trust_clip="),
        ({"blocks": 0}, "blocks=0 is not an int of at least 1"),
        ({"blocks": 1.0}, "blocks=1.0"),
        ({"blocks": True}, "blocks=True"),
        ({"blocks": 4}, r"blocks=4 does not divide dimension 0 of w, whose shape is \(6, 2\)"),
        ({"eps": -1e-9}, "eps=-1e-09"),
        ({"foreach": True, "fused": True}, "exclude each other"),
        ({"fused": True, "norm": "l1"}, "fused=True: .*(norm='l2' alone, not 'l1'|not compiled|cannot be loaded)"),
    ],
)
@pytest.mark.parametrize("cls", [LAMB, LARS])
def test_wrong_values_are_named(cls: Any, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls([{"params": [("w", P(torch.ones(6, 2)))], "lr": 0.1, **settings}], lr=0.1)
    with pytest.raises(ValueError, match=message):
        cls([("v", P(torch.ones(6, 2)))], lr=0.1).add_param_group({"params": [("w", P(torch.ones(6, 2)))], **settings})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: LAMB([p], betas=(0.9, 1.0)), r"betas\[1\]=1\.0 is not in \[0, 1\)"),
        (lambda p: LAMB([p], betas=(-0.1, 0.9)), r"betas\[0\]=-0\.1"),
        (lambda p: LAMB([p], betas=0.9), r"betas=0\.9 is not a pair"),
        (lambda p: LAMB([p], betas=(0.9, None)), r"betas\[1\]=None is not in"),
        (lambda p: LAMB([p], max_grad_norm="x"), "max_grad_norm='x' is not above 0"),
        (lambda p: LAMB([("w", p), ("w", P(torch.ones(2)))]), "two parameters are named w, by which"),
        (lambda p: LAMB([p], nesterov="v"), "nesterov='v' is not one of None, 'm', 'mv'"),
        (lambda p: LAMB([p], max_grad_norm=0.0), r"max_grad_norm=0\.0 is not above 0"),
        (lambda p: LAMB([p], nonfinite="ignore"), "nonfinite='ignore'"),
        (lambda p: LARS([p], 0.1, momentum=1.0), r"momentum=1\.0"),
        (lambda p: LARS([p], 0.1, trust_coefficient=math.inf), "trust_coefficient=inf"),
        (lambda p: LARS([p], 0.1, trust_coefficient=-1.0), r"trust_coefficient=-1\.0"),
        (lambda p: LARS([p], 0.1, form="timm"), "form='timm'"),
        (lambda p: LARS([p], 0.1, joint_norm=True), "joint_norm=True has no meaning"),
        (lambda p: Layerwise(torch.optim.SGD([p], lr=0.1), phi=(2.0, 1.0)), "phi="),
        (lambda p: Layerwise(torch.optim.SGD([p], lr=0.1), norm="l0"), "norm='l0'"),
        (lambda p: Layerwise(LAMB([p])), "base=LAMB is layer-wise already"),
    ],
)
def test_wrong_arguments_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(P(torch.ones(2)))


def test_wrong_tensors_are_named(native: Any) -> None:
    with pytest.raises(TypeError, match=r"0\.0 has dtype torch\.complex64"):
        native.make([P(torch.ones(2, dtype=torch.complex64))])
    with pytest.raises(TypeError, match=r"not a torch\.optim\.Optimizer"):
        Layerwise([P(torch.ones(2))])
    flat = P(torch.ones(2))
    flat._is_flat_param = True
    with pytest.raises(TypeError, match=r"0\.0 belongs to FSDP1"):
        native.make([flat])
    table, other = torch.nn.Embedding(4, 2, sparse=True), P(torch.ones(2))
    optimizer = native.make([("other", other), ("table", table.weight)])
    other.grad = torch.ones(2)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match="the gradient of table is sparse"):
        optimizer.step()
    assert torch.equal(other, torch.ones(2))
    assert not optimizer.state


def test_a_state_dict_that_does_not_fit_is_refused_whole(native: Any, problem: Any) -> None:
    params = problem.params()
    optimizer = native.make([("w", params[0]), ("b", params[1])])
    problem.gradients = [gradients[:2] for gradients in problem.gradients]
    problem.run(optimizer, params[:2])
    before = copy.deepcopy(optimizer.state_dict())
    name = "exp_avg" if native.name == "lamb" else "momentum_buffer"

    lacking = copy.deepcopy(before)
    del lacking["state"][1][name]
    with pytest.raises(ValueError, match=f"the state of b lacks {name}; it has"):
        optimizer.load_state_dict(lacking)

    foreign = copy.deepcopy(before)
    foreign["state"][0][name] = torch.zeros(4, 6, dtype=torch.float64)
    with pytest.raises(ValueError, match=rf"{name} of w has shape \(4, 6\), the parameter \(6, 4\)"):
        optimizer.load_state_dict(foreign)

    for index, state in before["state"].items():
        for key, value in state.items():
            assert torch.equal(optimizer.state_dict()["state"][index][key], value)
