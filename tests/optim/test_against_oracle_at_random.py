"""Runs drawn at random against the paper: shapes, blocks, exclusions, schedules, precisions, every way of computing."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import oracle
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anybatch.optim import LAMB, LARS, Layerwise


def layerwise(
    params: Any, *, norm: str = "l2", phi: Any = (0.0, np.inf), trust_clip: Any = (0.0, np.inf), **adamw: Any
) -> Any:
    base = torch.optim.AdamW(params, **{"eps": 1e-6, "weight_decay": 0.01, **adamw})
    return Layerwise(base, norm=norm, phi=phi, trust_clip=trust_clip)


OPTIMIZERS = {"lamb": (LAMB, oracle.lamb), "lars": (LARS, oracle.lars), "layerwise": (layerwise, oracle.lamb)}


@dataclass(frozen=True)
class Group:
    shapes: tuple[tuple[int, ...], ...]
    keys: dict[str, Any]


@dataclass(frozen=True)
class Run:
    name: str
    settings: dict[str, Any]
    groups: tuple[Group, ...]
    rates: tuple[float, ...]
    seed: int
    gradient_scale: float
    max_grad_norm: float | None = None
    dtype: torch.dtype = torch.float64
    foreach: bool = False
    capturable: bool = False
    tensor_lr: bool = False

    def arrays(self) -> Any:
        """Layers by group, and the gradients of every step; now and then nothing but zeros."""
        random = np.random.default_rng(self.seed)

        def layers(scale: Any) -> Any:
            return [
                [random.normal(size=s) * scale * random.choice([1, 1, 1, 0, 1e3]) for s in g.shapes]
                for g in self.groups
            ]

        return layers(1.0), [layers(self.gradient_scale) for _ in self.rates]


def bounds(low: Any, high: Any) -> Any:
    return st.tuples(st.floats(0, low), st.floats(low, high))


COMMON = {
    "norm": st.sampled_from(["l2", "l1", "linf"]),
    "phi": bounds(1.0, 10.0),
    "trust_clip": bounds(0.5, 5.0),
    "weight_decay": st.sampled_from([0.0, 0.01, 0.3]),
}
SETTINGS = {
    "lamb": {
        **COMMON,
        "betas": st.tuples(st.floats(0, 0.95), st.floats(0, 0.999)),
        "eps": st.sampled_from([1e-8, 1e-6, 0.1]),
        "bias_correction": st.booleans(),
        "nesterov": st.sampled_from([None, "m", "mv"]),
        "maximize": st.booleans(),
    },
    "lars": {
        **COMMON,
        "momentum": st.floats(0, 0.95),
        "trust_coefficient": st.sampled_from([0.001, 0.5, 1.0]),
        "eps": st.sampled_from([0.0, 0.1]),
        "nesterov": st.booleans(),
        "maximize": st.booleans(),
    },
    "layerwise": {**COMMON, "betas": st.tuples(st.floats(0, 0.95), st.floats(0, 0.999))},
}


@st.composite
def groups(draw: Any) -> Any:
    blocks = draw(st.sampled_from([1, 1, 1, 2, 3]))
    shape = st.lists(st.integers(0, 4), min_size=0 if blocks == 1 else 1, max_size=3)
    shapes = [tuple(s) for s in draw(st.lists(shape, min_size=1, max_size=3))]
    shapes = [(s[0] * blocks, *s[1:]) if s else s for s in shapes]
    keys = {"blocks": blocks, "adapt": draw(st.sampled_from([True, True, False]))}
    if draw(st.booleans()):
        keys |= {key: draw(COMMON[key]) for key in ("norm", "weight_decay")}
    return Group(tuple(shapes), keys)


@st.composite
def runs(draw: Any) -> Any:
    name = draw(st.sampled_from(list(SETTINGS)))
    chosen = draw(st.sets(st.sampled_from(list(SETTINGS[name]))))
    keys = {key: draw(SETTINGS[name][key]) for key in sorted(chosen)}
    if name == "lars":
        keys["form"] = draw(st.sampled_from(["lamb-paper", "lars-2017", "lr-outside"]))
        keys["joint_norm"] = keys["form"] != "lamb-paper" and draw(st.booleans())
    native = name != "layerwise"
    return Run(
        name,
        keys,
        tuple(draw(st.lists(groups(), min_size=1, max_size=3))),
        tuple(draw(st.lists(st.sampled_from([0.0, 0.01, 0.1, 0.2]), min_size=1, max_size=4))),
        seed=draw(st.integers(0, 10_000)),
        gradient_scale=draw(st.sampled_from([1e-3, 1.0, 50.0])),
        max_grad_norm=draw(st.sampled_from([None, 0.5])) if native else None,
        dtype=draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16][: 3 if native else 2])),
        foreach=draw(st.booleans()),
        capturable=native and draw(st.booleans()),
        tensor_lr=native and draw(st.booleans()),
    )


def expected(run: Any, xs: Any, gradients: Any) -> Iterator[Any]:
    if run.max_grad_norm is not None:
        flat = [oracle.clipped([g for group in step for g in group], run.max_grad_norm) for step in gradients]
        gradients = [[[each.pop(0) for _ in group.shapes] for group in run.groups] for each in flat]
    for i, group in enumerate(run.groups):
        keys = {key: value for key, value in group.keys.items() if key != "blocks"}
        for j, shape in enumerate(group.shapes):
            blocks = group.keys["blocks"]
            several = [np.split(a, blocks) if blocks > 1 else [a] for a in (xs[i][j], *(g[i][j] for g in gradients))]
            found = [
                OPTIMIZERS[run.name][1](x, gs, run.rates, **{**run.settings, **keys})
                for x, *gs in zip(*several, strict=True)
            ]
            yield np.concatenate(found) if blocks > 1 else found[0].reshape(shape)


def computed(run: Any, xs: Any, gradients: Any) -> Iterator[Any]:
    """What anybatch makes of it, in float64: the masters where parameters are narrow."""
    params = [[torch.nn.Parameter(torch.tensor(x, dtype=run.dtype)) for x in group] for group in xs]
    given = [{"params": group, **g.keys} for group, g in zip(params, run.groups, strict=True)]
    native = {} if run.name == "layerwise" else {"capturable": run.capturable, "max_grad_norm": run.max_grad_norm}
    if run.dtype == torch.bfloat16:
        native["master_weights"] = True
    lr = torch.tensor(run.rates[0], dtype=torch.float64) if run.tensor_lr else run.rates[0]
    optimizer = OPTIMIZERS[run.name][0](given, lr=lr, foreach=run.foreach, **run.settings, **native)
    for step, rate in zip(gradients, run.rates, strict=True):
        for group, ps, gs in zip(optimizer.param_groups, params, step, strict=True):
            group["lr"] = group["lr"].fill_(rate) if run.tensor_lr else rate
            for p, g in zip(ps, gs, strict=True):
                p.grad = torch.tensor(g, dtype=run.dtype)
        optimizer.step()
    for p in (p for group in params for p in group):
        exact = optimizer.state[p].get("master", p)
        assert torch.equal(p, exact.to(p.dtype))
        yield exact.detach().double().numpy()


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(runs())
def test_any_run_is_the_papers(run: Any) -> None:
    xs, gradients = run.arrays()

    def representable(layers: Any) -> Any:
        return [[torch.tensor(a, dtype=run.dtype).double().numpy() for a in group] for group in layers]

    xs, gradients = representable(xs), [representable(step) for step in gradients]
    tolerance = {torch.float64: 1e-9, torch.float32: 3e-5, torch.bfloat16: 3e-5}[run.dtype]
    for ours, papers in zip(computed(run, xs, gradients), expected(run, xs, gradients), strict=True):
        assert ours.shape == papers.shape
        assert np.linalg.norm(ours - papers) <= tolerance * (np.linalg.norm(papers) + 1e-30)
