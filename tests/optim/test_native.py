"""What users do to optimizers: odd memory, odd numbers, odd bounds, states of others, reads in the middle."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from anybatch.optim import LAMB, LARS, Layerwise, dialect, param_groups
from anybatch.optim.kernels import why_not_fused


def P(values: Any, **kwargs: Any) -> Any:  # noqa: N802
    return torch.nn.Parameter(torch.tensor(values, **kwargs))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_propagate_touches_the_layer_alone_and_the_ratios_tell_which(kind: Any, problem: Any, bad: Any) -> None:
    params, control = problem.params(), problem.params()
    clean = copy.deepcopy(problem.gradients)
    problem.gradients[1][1][2] = bad
    named = [(f"layer{i}", p) for i, p in enumerate(params)]
    optimizer = kind.make(named)
    problem.run(optimizer, params)
    problem.gradients = clean
    problem.run(kind.make(control), control)
    assert all(torch.equal(params[i], control[i]) for i in range(len(params)) if i != 1)
    told = [
        name for name, ratio in optimizer.trust_ratios().items() if not math.isfinite(ratio.ratio * ratio.weight_norm)
    ]
    assert told == ["layer1"]


class Reads(TorchFunctionMode):
    """Counts what brings a tensor's numbers to the host."""

    NAMES = ("tolist", "item", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__", "__array__")
    WATCHED = frozenset(getattr(torch.Tensor, name) for name in NAMES)

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function in self.WATCHED
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("foreach", [False, True], ids=["plain", "foreach"])
@pytest.mark.parametrize(
    "make",
    [
        lambda params, **more: LAMB(params, capturable=True, **more),
        lambda params, **more: LARS(params, lr=0.1, **more),
        lambda params, **more: Layerwise(torch.optim.SGD(params, lr=0.1, **more)),
    ],
    ids=["lamb", "lars", "layerwise"],
)
def test_ratios_cost_nothing_until_asked_and_one_transfer_then(problem: Any, make: Any, foreach: Any) -> None:
    params = problem.params()
    groups = [
        {"params": params[:2]},
        {"params": params[2:5], "adapt": False},
        {"params": params[5:], "blocks": 3},
    ]
    optimizer = make(groups, foreach=foreach)
    for p, g in zip(params, problem.gradients[0], strict=True):
        p.grad = torch.tensor(g)
    with Reads() as reads:
        optimizer.step()
        optimizer.step()
        assert reads.count == 0
        assert len(optimizer.trust_ratios()) == 8
        assert reads.count == 1


@pytest.mark.parametrize("foreach", [False, True], ids=["plain", "foreach"])
def test_expanded_gradients_are_as_good_as_whole_ones(kind: Any, foreach: Any) -> None:
    one, other = torch.nn.Parameter(torch.ones(3, 4)), torch.nn.Parameter(torch.ones(3, 4))
    one.grad, other.grad = torch.full((1, 1), 2.0).expand(3, 4), torch.full((3, 4), 2.0)
    optimizer = kind.make([one, other], lr=0.1, foreach=foreach)
    optimizer.step()
    optimizer.step()
    assert torch.equal(one, other)
    assert not torch.equal(one, torch.ones(3, 4))


def test_an_expanded_parameter_is_refused_before_a_step_has_half_been_taken(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"0\.0 is expanded"):
        kind.make([torch.nn.Parameter(torch.ones(1, 4).expand(3, 4))])


def test_a_sharded_gradient_of_an_ordinary_parameter_is_named(native: Any) -> None:
    import torch.distributed as dist
    from torch.distributed.tensor import Replicate, distribute_tensor, init_device_mesh

    v, w = P([1.0, 2.0]), P([1.0, 2.0])
    optimizer = native.make([("v", v), ("w", w)], lr=0.1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        v.grad, w.grad = torch.ones(2), distribute_tensor(torch.ones(2), init_device_mesh("cpu", (1,)), [Replicate()])
        with pytest.raises(TypeError, match="the gradient of w is a DTensor, but the parameter is not"):
            optimizer.step()
    finally:
        dist.destroy_process_group()
    assert v.tolist() == [1.0, 2.0]


def test_a_parameter_in_two_groups_is_refused_and_a_tied_one_moves_once(kind: Any) -> None:
    p = P([1.0, 2.0])
    with pytest.raises(ValueError, match="more than one parameter group"):
        kind.make([{"params": [p]}, {"params": [p]}])
    model = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    alone = torch.nn.Parameter(model[0].weight.detach().clone())
    model(torch.ones(2, 3)).sum().backward()
    alone.grad = model[0].weight.grad.clone()
    for optimizer in (kind.make(model.parameters(), lr=0.1), kind.make([alone], lr=0.1)):
        optimizer.step()
    assert torch.equal(model[1].weight, alone)


def test_channels_last_is_a_layout_not_a_result(kind: Any) -> None:
    x = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    last, first = torch.nn.Parameter(x.to(memory_format=torch.channels_last)), torch.nn.Parameter(x.clone())
    g = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    last.grad, first.grad = g.to(memory_format=torch.channels_last), g
    for p in (last, first):
        kind.make([{"params": [p], "blocks": 2}], lr=0.1).step()
    torch.testing.assert_close(last, first, rtol=1e-6, atol=1e-7)
    assert last.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("x", "g", "settings"),
    [
        ([1.0, -2.0], [1e-45, 1e-42], {}),
        ([1e-40, 1e-42], [1.0, -1.0], {}),
        ([1.0, -2.0], [1e19, -1e18], {}),
        ([1e18, -2e18], [1.0, -1.0], {}),
        ([1.0, -2.0], [1.0, -1.0], {"weight_decay": 1e30}),
    ],
    ids=["denormal gradient", "denormal weights", "huge gradient", "huge weights", "huge decay"],
)
@pytest.mark.parametrize("foreach", [False, True], ids=["plain", "foreach"])
def test_extreme_numbers_in_fp32(native: Any, x: Any, g: Any, settings: Any, foreach: Any) -> None:
    """A layer moves by lr * |x| along its update, whatever the scale: three steps, held to the paper in float64."""
    p = P(x)
    optimizer = native.make([p], lr=0.1, foreach=foreach, **settings)
    for _ in range(3):
        p.grad = torch.tensor(g)
        optimizer.step()
    x64, g64 = np.float64(np.float32(x)), np.float64(np.float32(g))
    expected = native.oracle(x64, [g64] * 3, [0.1] * 3, **settings)
    # Moments in fp32 lose a denormal gradient; with it, all that is left of the update is the decay.
    tolerance = 2e-2 if max(np.abs(g64)) < 1e-38 else 1e-5
    assert np.linalg.norm(p.detach().double().numpy() - expected) <= tolerance * np.linalg.norm(expected) + 1e-44


def test_a_gradient_that_comes_late_starts_at_step_one(native: Any) -> None:
    early, late, fresh = P([1.0, 2.0]), P([3.0, 4.0]), P([3.0, 4.0])
    optimizer = native.make([early, late], lr=0.1)
    early.grad = torch.ones(2)
    optimizer.step()
    optimizer.step()
    late.grad = fresh.grad = torch.ones(2)
    optimizer.step()
    native.make([fresh], lr=0.1).step()
    assert torch.equal(late, fresh)


def test_a_state_of_adamw_is_taken_over(problem: Any) -> None:
    """LAMB's moments are AdamW's: a run may change over in its middle."""
    params = problem.params()
    adamw = torch.optim.AdamW(params, weight_decay=0.1, eps=1e-6)
    problem.run(adamw, params, slice(2))
    saved, others = copy.deepcopy(adamw.state_dict()), [torch.nn.Parameter(p.detach().clone()) for p in params]
    lamb, wrapped = LAMB(others, weight_decay=0.1), Layerwise(adamw)
    lamb.load_state_dict(saved)
    problem.run(wrapped, params, slice(2, None))
    problem.run(lamb, others, slice(2, None))
    for p, x in zip(params, others, strict=True):
        torch.testing.assert_close(p, x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("norm", "l9", "norm='l9' is not one of"),
        ("blocks", 4, r"blocks=4 does not divide dimension 0 of w, whose shape is \(6, 2\)"),
        ("trust_clip", False, "trust_clip=False is not a pair"),
        ("phi", (2.0, 1.0), "phi="),
    ],
)
def test_a_saved_group_that_cannot_be_stepped_is_not_loaded(kind: Any, key: Any, value: Any, message: str) -> None:
    p = torch.nn.Parameter(torch.ones(6, 2))
    optimizer = kind.make([("w", p)])
    p.grad = torch.ones(6, 2)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0][key] = value
    saved["param_groups"][0]["lr"] = 7.0
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] != 7.0
    optimizer.step()
    optimizer.register_load_state_dict_pre_hook(
        lambda _, given: given["param_groups"][0].update({key: optimizer.defaults[key]})
    )
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 7.0


def test_a_group_added_in_mid_run_starts_anew(native: Any) -> None:
    old, new, alone = P([3.0, 4.0]), P([1.0, 2.0]), P([1.0, 2.0])
    optimizer = native.make([old], lr=0.1)
    old.grad = torch.ones(2)
    optimizer.step()
    optimizer.add_param_group({"params": [new], "weight_decay": 0.3, "lr": 0.2})
    new.grad = alone.grad = torch.ones(2)
    optimizer.step()
    native.make([{"params": [alone], "weight_decay": 0.3}], lr=0.2).step()
    assert torch.equal(new, alone)


@pytest.mark.parametrize("foreach", [False, True], ids=["plain", "foreach"])
def test_a_checkpoint_of_timm_goes_on(foreach: Any) -> None:
    """As docs/optimizers.md says: timm and apex count steps in the group."""
    from support import peers

    random = torch.Generator().manual_seed(0)
    theirs = [torch.nn.Parameter(torch.randn(3, 2, generator=random, dtype=torch.float64)) for _ in range(2)]
    gradients = [[torch.randn(3, 2, generator=random, dtype=torch.float64) for _ in range(2)] for _ in range(6)]
    old = peers.timm("lamb").Lamb(theirs, lr=0.1, foreach=False)
    spoken = dialect("timm", LAMB)
    for t, step in enumerate(gradients):
        if t == 3:
            ours = [torch.nn.Parameter(p.detach().clone()) for p in theirs]
            new = LAMB(spoken.groups(ours), lr=0.1, foreach=foreach, **spoken.keywords)
            saved = copy.deepcopy(old.state_dict())
            for group in saved["param_groups"]:
                for index in group["params"]:
                    saved["state"][index]["step"] = group["step"]
            new.load_state_dict({"state": saved["state"], "param_groups": new.state_dict()["param_groups"]})
        for p, g in zip(theirs, step, strict=True):
            p.grad = g
        old.step()
        if t >= 3:
            for p, g in zip(ours, step, strict=True):
                p.grad = g
            new.step()
    for p, x in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, x, rtol=1e-12, atol=1e-12)


PATHS = [{"foreach": False}, {"foreach": True}, {}]
IDS = ["plain", "foreach", "default"]
needs_kernels = pytest.mark.skipif(
    why_not_fused(torch.device("cpu"), torch.float32, {"norm": "l2"}) is not None, reason="no C kernels here"
)


@pytest.mark.parametrize("path", PATHS, ids=IDS)
@pytest.mark.parametrize("form", ["lars-2017", "lr-outside"])
def test_a_layer_without_gradient_has_no_rate_of_its_own(form: str, path: Any) -> None:
    p = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    p.grad = torch.zeros(2)
    LARS([p], 0.1, weight_decay=0.5, trust_coefficient=0.001, form=form, **path).step()
    torch.testing.assert_close(p.data, torch.tensor([2.85, 3.8]))


@pytest.mark.parametrize("path", PATHS, ids=IDS)
def test_an_infinite_bound_measures_and_clips_nothing(path: Any) -> None:
    p, q = torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.ones(4))
    p.grad = q.grad = torch.ones(4)
    optimizer = LAMB([p], 0.1, max_grad_norm=math.inf, **path)
    optimizer.step()
    LAMB([q], 0.1, **path).step()
    assert torch.equal(p, q)
    optimizer.max_grad_norm = 0.0
    with pytest.raises(ValueError, match=r"max_grad_norm=0\.0 is not above 0"):
        optimizer.step()


def test_an_empty_first_group_takes_part_in_the_look() -> None:
    p = torch.nn.Parameter(torch.ones(4))
    optimizer = LAMB([{"params": []}, {"params": [p]}], lr=0.1, max_grad_norm=1.0)
    optimizer.step()
    p.grad = torch.ones(4)
    optimizer.step()
    assert p.norm() < 2


@pytest.mark.parametrize("path", PATHS, ids=IDS)
@pytest.mark.parametrize("bound", [None, 1.0])
def test_gradients_that_are_not_what_lies_in_memory(path: Any, bound: Any) -> None:
    """A zero tensor has no memory, and a lazy sign is not in it."""
    lazy, plain = torch.nn.Parameter(torch.ones(8)), torch.nn.Parameter(torch.ones(8))
    for p, grads in ((lazy, (torch._neg_view(torch.arange(1.0, 9.0)), torch._efficientzerotensor(8))),
                     (plain, (-torch.arange(1.0, 9.0), torch.zeros(8)))):  # fmt: skip
        optimizer = LAMB([p], 0.1, max_grad_norm=bound, **path)
        for p.grad in grads:
            optimizer.step()
    torch.testing.assert_close(lazy, plain)


def test_states_taken_away_in_mid_run_are_made_anew() -> None:
    p = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    p.grad = torch.ones(4, dtype=torch.bfloat16)
    optimizer = LAMB([p], lr=0.1, master_weights=True)
    for _ in range(2):
        optimizer.step()
    del optimizer.state[p]["master"]
    optimizer.step()
    assert "master" in optimizer.state[p]
    optimizer.state[p].clear()
    optimizer.step()
    assert optimizer.state[p]["step"] == 1


def test_groups_that_share_memory_step_as_the_plain_path_does() -> None:
    ends = []
    for path in ({"foreach": False}, {}):
        base = torch.linspace(-1, 1, 8)
        p, q = torch.nn.Parameter(base[:5]), torch.nn.Parameter(base[3:])
        p.grad = q.grad = torch.arange(5.0)
        optimizer = LARS([{"params": [p]}, {"params": [q]}], lr=0.5, weight_decay=0.5, **path)
        for _ in range(2):
            optimizer.step()
        ends.append(base)
    torch.testing.assert_close(*ends)


@needs_kernels
def test_a_norm_that_the_kernels_lack_is_refused_also_in_mid_run() -> None:
    p = torch.nn.Parameter(torch.ones(4))
    p.grad = torch.ones(4)
    optimizer = LAMB([p], lr=0.1, fused=True)
    optimizer.step()
    optimizer.param_groups[0]["norm"] = "l1"
    before = p.clone()
    with pytest.raises(RuntimeError, match="norm='l2' alone, not 'l1'; no parameter and no state was changed"):
        optimizer.step()
    assert torch.equal(p, before)
    assert optimizer.state[p]["step"] == 1


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("foreach", [False, True, None])
def test_a_fresh_optimizer_of_several_groups_compiles_to_one_graph(foreach: Any) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.LayerNorm(4))
    optimizer = LAMB(param_groups(model), lr=torch.tensor(0.1), foreach=foreach)
    step = torch.compile(optimizer.step, backend="eager", fullgraph=True)
    for _ in range(3):
        for p in model.parameters():
            p.grad = torch.randn(p.shape)
        step()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert {float(state["step"]) for state in optimizer.state.values()} == {3.0}
