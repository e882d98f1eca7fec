"""The general strategy over every base: the base's own step at lr = 1, scaled by hand."""

import copy
import io
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from support import peers

from anybatch.optim import Layerwise
from anybatch.scaling import schedule

RATES = [0.1, 0.2, 0.0, 0.1, 0.05, 0.02]
SHAPES = [(6, 4), (3, 5), (6, 2), (4, 4)]
VECTORS = [(5,), (), (0, 3)]


class SignMomentum(torch.optim.Optimizer):
    """A third party's: keeps its count in the group, its state under names of its own, knows no foreach."""

    def __init__(self, params: Any, lr: Any = 1e-3, decay: Any = 0.1) -> None:
        super().__init__(params, {"lr": lr, "decay": decay, "count": 0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["count"] += 1
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                state["mean"] = 0.5 * state.get("mean", torch.zeros_like(p)) + p.grad
                p.sub_(group["lr"] * (state["mean"].sign() / group["count"] + group["decay"] * p))


def of_timm(module: Any, cls: Any, **settings: Any) -> Any:
    return lambda params, lr: getattr(peers.timm(module), cls)(params, lr=lr, **settings)


def of_torch(cls: Any, **settings: Any) -> Any:
    return lambda params, lr: cls(params, lr=lr, **settings)


optim = torch.optim
BASES = {
    "AdamW": of_torch(optim.AdamW, weight_decay=0.1),
    "AdamW foreach": of_torch(optim.AdamW, weight_decay=0.1, foreach=True),
    "AdamW fused": of_torch(optim.AdamW, weight_decay=0.1, fused=True),
    "Adam amsgrad maximize": of_torch(optim.Adam, weight_decay=0.1, amsgrad=True, maximize=True),
    "Adamax": of_torch(optim.Adamax),
    "Adadelta": of_torch(optim.Adadelta, weight_decay=0.1),
    "Adagrad": of_torch(optim.Adagrad, lr_decay=0.5, weight_decay=0.1),
    "Adagrad fused": of_torch(optim.Adagrad, fused=True),
    "Muon": of_torch(optim.Muon, weight_decay=0.1),
    "NAdam": of_torch(optim.NAdam, weight_decay=0.1, decoupled_weight_decay=True),
    "RAdam": of_torch(optim.RAdam, weight_decay=0.1, betas=(0.9, 0.5)),
    "RMSprop": of_torch(optim.RMSprop, momentum=0.9, centered=True, weight_decay=0.1),
    "SGD": of_torch(optim.SGD),
    "SGD momentum": of_torch(optim.SGD, momentum=0.9, weight_decay=0.1, dampening=0.3, foreach=True),
    "SGD Nesterov": of_torch(optim.SGD, momentum=0.9, nesterov=True, weight_decay=0.1),
    "SGD fused": of_torch(optim.SGD, momentum=0.9, fused=True),
    "timm AdaBelief": of_timm("adabelief", "AdaBelief", weight_decay=0.1),
    "timm Lion": of_timm("lion", "Lion", weight_decay=0.1),
    "a third party's": SignMomentum,
}
REFUSED = {
    "ASGD": (optim.ASGD, "not proportional to lr"),
    "Adafactor": (optim.Adafactor, "not proportional to lr"),
    "LBFGS": (optim.LBFGS, "needs a closure"),
    "Rprop": (optim.Rprop, "sizes of their own"),
    "SparseAdam": (optim.SparseAdam, "sparse gradients alone"),
}


@pytest.fixture(params=BASES)
def name(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def make(name: str) -> Any:
    return BASES[name]


@pytest.fixture
def layers(name: str) -> Any:
    random = np.random.default_rng(1)
    shapes = SHAPES if name == "Muon" else [*SHAPES, *VECTORS]
    return [random.normal(size=s) for s in shapes], [[random.normal(size=s) for s in shapes] for _ in RATES]


def parameters(xs: Any, dtype: torch.dtype = torch.float64) -> Any:
    return [torch.nn.Parameter(torch.tensor(x, dtype=dtype)) for x in xs]


def feed(params: Any, gradients: Any) -> None:
    for p, g in zip(params, gradients, strict=True):
        p.grad = torch.tensor(g, dtype=p.dtype)


def run(optimizer: Any, params: Any, gradients: Any, steps: Any = slice(None)) -> None:
    for step, rate in zip(gradients[steps], RATES[steps], strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        feed(params, step)
        optimizer.step()


def by_hand(
    make: Any,
    xs: Any,
    gradients: Any,
    rates: Any,
    *,
    adapt: Any = True,
    blocks: Any = 1,
    norm: str = "l2",
    phi: Any = (0.0, np.inf),
    trust_clip: Any = (0, np.inf),
) -> Any:
    """x <- x - lr * phi(|x|)/|u| * u with u from the base alone, at lr = 1."""
    params = parameters(xs)
    base = make(params, lr=1.0)
    for step, rate in zip(gradients, rates, strict=True):
        before = [p.detach().numpy().copy() for p in params]
        feed(params, step)
        base.step()
        for p, x in zip(params, before, strict=True):
            u = x - p.detach().numpy()
            ratios = [
                oracle.trust(oracle.size(x_part, norm), oracle.size(u_part, norm), phi=phi, trust_clip=trust_clip)
                for x_part, u_part in zip(x.reshape(blocks, -1), u.reshape(blocks, -1), strict=True)
            ]
            scaled = np.array(ratios if adapt else [1.0])[:, None] * u.reshape(blocks, -1)
            p.data = torch.tensor(x - rate * scaled.reshape(x.shape))
    return [p.detach().numpy() for p in params]


def assert_same(params: Any, xs: Any, tolerance: float = 1e-12) -> None:
    for p, x in zip(params, xs, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("settings", [{}, {"phi": (0.5, 2.0), "norm": "l1"}, {"trust_clip": (0.1, 0.4)}], ids=str)
def test_the_strategy_by_hand(make: Any, layers: Any, settings: Any) -> None:
    params = parameters(layers[0])
    run(Layerwise(make(params, lr=0.1), **settings), params, layers[1])
    assert_same(params, by_hand(make, *layers, RATES, **settings))


def test_groups_of_every_kind(make: Any, layers: Any) -> None:
    xs, gradients = layers
    params = parameters(xs)
    groups = [
        {"params": params[:2], "adapt": False},
        {"params": params[2:3], "blocks": 3},
        {"params": params[3:], "norm": "linf"},
    ]
    run(Layerwise(make(groups, lr=0.1)), params, gradients)
    cut = [slice(0, 2), slice(2, 3), slice(3, None)]
    for part, settings in zip(cut, [{"adapt": False}, {"blocks": 3}, {"norm": "linf"}], strict=True):
        expected = by_hand(make, xs[part], [step[part] for step in gradients], RATES, **settings)
        assert_same(params[part], expected)


def test_unadapted_it_is_the_base_at_every_rate(make: Any, layers: Any) -> None:
    """So the base's update is proportional to lr, which the strategy needs."""
    wrapped, bare = parameters(layers[0]), parameters(layers[0])
    run(Layerwise(make([{"params": wrapped, "adapt": False}], lr=0.1)), wrapped, layers[1])
    run(make(bare, lr=0.1), bare, layers[1])
    assert_same(wrapped, [p.detach().numpy() for p in bare])


def test_every_optimizer_of_torch_is_covered() -> None:
    known = {cls.__name__ for cls in vars(optim).values() if isinstance(cls, type)} - {"Optimizer"}
    assert known == {name.split()[0] for name in BASES if "timm" not in name and "third" not in name} | REFUSED.keys()


@pytest.mark.parametrize(("cls", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_proportional_is_refused(cls: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=f"base={cls.__name__} cannot be made layer-wise: .*{reason}"):
        Layerwise(cls([torch.nn.Parameter(torch.ones(2))], lr=0.1))


def test_a_saved_run_goes_on_bitwise(make: Any, layers: Any) -> None:
    xs, gradients = layers
    params = parameters(xs, torch.float32)
    optimizer = Layerwise(make(params, lr=0.1))
    run(optimizer, params, gradients, slice(3))
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    resumed = Layerwise(make(others, lr=0.7))
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    assert resumed.param_groups[0]["lr"] == RATES[2]
    run(optimizer, params, gradients, slice(3, None))
    run(resumed, others, gradients, slice(3, None))
    assert all(torch.equal(p, x) for p, x in zip(params, others, strict=True))


def test_a_copy_goes_on_bitwise(make: Any, layers: Any) -> None:
    xs, gradients = layers
    params = parameters(xs)
    optimizer = Layerwise(make(params, lr=0.1))
    run(optimizer, params, gradients, slice(3))
    others, twin = copy.deepcopy((params, optimizer))
    run(optimizer, params, gradients, slice(3, None))
    run(twin, others, gradients, slice(3, None))
    assert twin.base is not optimizer.base
    assert all(torch.equal(p, x) and p is not x for p, x in zip(params, others, strict=True))


def test_a_group_added_in_mid_run(name: str, make: Any, layers: Any) -> None:
    if name.startswith("Adagrad"):
        pytest.skip("Adagrad itself fails on a group that was added later")
    xs, gradients = layers
    params = parameters(xs)
    optimizer = Layerwise(make(params[:1], lr=0.1))
    run(optimizer, params[:1], [step[:1] for step in gradients], slice(2))
    optimizer.add_param_group({"params": params[1:]})
    run(optimizer, params, gradients, slice(2, None))
    assert_same(params[:1], by_hand(make, xs[:1], [step[:1] for step in gradients], RATES))
    assert_same(params[1:], by_hand(make, xs[1:], [step[1:] for step in gradients[2:]], RATES[2:]))


@pytest.mark.parametrize("held", ["base", "wrapper"])
def test_a_scheduler_may_hold_either(make: Any, layers: Any, held: Any) -> None:
    xs, gradients = layers
    params = parameters(xs)
    base = make(params, lr=0.2)
    optimizer = Layerwise(base)
    scheduler = torch.optim.lr_scheduler.LambdaLR(base if held == "base" else optimizer, schedule(6, 2))
    rates = []
    for step in gradients:
        rates.append(scheduler.get_last_lr()[0])
        feed(params, step)
        optimizer.step()
        scheduler.step()
    assert len(set(rates)) > 3
    assert_same(params, by_hand(make, xs, gradients, rates))


@pytest.mark.parametrize("owner", ["base", "wrapper"])
def test_step_hooks_run_once_around_the_whole_step(make: Any, layers: Any, owner: Any) -> None:
    xs, gradients = layers
    params = parameters(xs)
    base = make(params, lr=0.1)
    optimizer = Layerwise(base)
    seen = []

    def note(opt: Any, *_: Any) -> None:
        seen.append((opt.param_groups[0]["lr"], params[0].detach().clone()))

    owned = base if owner == "base" else optimizer
    hooks = [owned.register_step_pre_hook(note), owned.register_step_post_hook(note)]
    run(optimizer, params, gradients, slice(2))
    assert [rate for rate, _ in seen] == [RATES[0], RATES[0], RATES[1], RATES[1]]
    x = [torch.tensor(by_hand(make, xs, gradients[:t], RATES[:t])[0]) for t in range(3)]
    for (_, found), expected in zip(seen, [x[0], x[1], x[1], x[2]], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for hook in hooks:
        hook.remove()
    run(optimizer, params, gradients, slice(2, 3))
    assert len(seen) == 4


def test_a_base_that_fails_leaves_rate_and_parameters() -> None:
    class Failing(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            super().step(closure)
            raise FloatingPointError

    params = parameters([np.array([3.0, 4.0]), np.array([1.0])])
    before = [p.detach().clone() for p in params]
    base = Failing(params, lr=0.1)
    base.register_step_post_hook(lambda *_: None)
    feed(params, [np.ones(2), np.ones(1)])
    with pytest.raises(FloatingPointError):
        Layerwise(base).step()
    assert base.param_groups[0]["lr"] == 0.1
    assert len(base._optimizer_step_post_hooks) == 1
    assert all(torch.equal(p, x) for p, x in zip(params, before, strict=True))


@pytest.mark.parametrize("fused", [False, True])
def test_a_tensor_lr_stays_the_users(fused: Any) -> None:
    x, lr = np.array([[3.0, 4.0]]), torch.tensor(0.1)
    params = parameters([x])
    optimizer = Layerwise(torch.optim.AdamW(params, lr=lr, fused=fused))
    make = of_torch(torch.optim.AdamW)
    for rate in (0.1, 0.05):
        lr.fill_(rate)
        feed(params, [np.array([[1.0, -2.0]])])
        optimizer.step()
        assert optimizer.param_groups[0]["lr"] is lr
        assert lr.item() == torch.tensor(rate).item()
    assert_same(params, by_hand(make, [x], [[np.array([[1.0, -2.0]])]] * 2, [0.1, 0.05]), 1e-7)


@pytest.mark.parametrize("fused", [False, True])
def test_grad_scaler(fused: Any) -> None:
    """Scaled losses, and a step left out where a gradient overflowed."""
    x = np.array([[3.0, 4.0]])
    params, control = parameters([x]), parameters([x])
    optimizer = Layerwise(torch.optim.AdamW(params, lr=0.1, fused=fused))
    plain = Layerwise(torch.optim.AdamW(control, lr=0.1))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for overflows in (False, True, False):
        for owned, step in ((params, lambda: scaler.step(optimizer)), (control, plain.step)):
            owned[0].grad = None
            loss = (owned[0] ** 2).sum()
            (scaler.scale(loss) if owned is params else loss).backward()
            if overflows and owned is params:
                owned[0].grad[0, 0] = torch.inf
            if not (overflows and owned is control):
                step()
        scaler.update()
    assert_same(params, [p.detach().numpy() for p in control])
    assert optimizer.state[params[0]]["step"] == 2


def test_a_base_without_lr_is_refused() -> None:
    base = torch.optim.Optimizer(parameters([np.ones(2)]), {"rate": 0.1})
    with pytest.raises(ValueError, match="base=Optimizer has groups without lr"):
        Layerwise(base)


def test_keys_of_the_base_are_not_taken_over() -> None:
    params = parameters([np.ones(2)])
    base = torch.optim.SGD(params, lr=0.1)
    Layerwise(base, norm="l1")
    Layerwise(base, norm="l1")
    with pytest.raises(ValueError, match="norm='l2', but base=SGD has norm='l1', from another Layerwise"):
        Layerwise(base)
