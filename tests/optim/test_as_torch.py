"""Drawn at random, as PyTorch's tests of its optimizers are: whatever happens between steps, the end is one."""

import copy
import io
import pickle
import random
from typing import Any

import pytest
import torch

PATHS = [{"foreach": False}, {"foreach": True}, {}]


def plain(optimizer: Any, params: Any, build: Any) -> Any:
    return optimizer, params


def deep(optimizer: Any, params: Any, build: Any) -> Any:
    return copy.deepcopy((optimizer, params))


def pickled(optimizer: Any, params: Any, build: Any) -> Any:
    return pickle.loads(pickle.dumps((optimizer, params)))


def loaded(optimizer: Any, params: Any, build: Any) -> Any:
    """A new optimizer over new parameters, whose settings are others until it has loaded; through a file."""
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    new = build(others, lr=0.7)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    new.load_state_dict(torch.load(buffer, weights_only=True))
    return new, others


def reloaded(optimizer: Any, params: Any, build: Any) -> Any:
    """Its own state, shallow: what is loaded may be what is used."""
    optimizer.load_state_dict(optimizer.state_dict())
    return optimizer, params


def through_another_dtype(optimizer: Any, params: Any, build: Any) -> Any:
    """As a checkpoint of fp64 tensors, which others write."""
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        state.update({name: value.double() for name, value in state.items()})
    optimizer.load_state_dict(saved)
    return optimizer, params


def through_a_group(optimizer: Any, params: Any, build: Any) -> Any:
    """Every group in a dict of its own, as wrappers hand them on."""
    optimizer.param_groups = [dict(group) for group in optimizer.param_groups]
    return optimizer, params


EVENTS = [plain, deep, pickled, loaded, reloaded, through_another_dtype, through_a_group]


def run(kind: Any, seed: int, path: Any, events: Any, dtype: torch.dtype = torch.float32) -> Any:
    draw, numbers = random.Random(seed), torch.Generator().manual_seed(seed)
    shapes = [draw.choice([(4, 6), (8,), (), (2, 3, 2), (0, 2), (6, 1)]) for _ in range(draw.randint(2, 5))]
    params = [
        torch.nn.Parameter(torch.randn(shape, generator=numbers, dtype=torch.float64).to(dtype)) for shape in shapes
    ]
    cut, named = draw.randint(1, len(shapes) - 1), draw.random() < 0.5
    # AdamW itself refuses a tensor for a learning rate with foreach.
    tensor = draw.random() < 0.5 and kind.name != "layerwise"
    keys = {"adapt": draw.random() < 0.5, "weight_decay": draw.choice([0.0, 0.3])}

    def build(params: Any, lr: Any) -> Any:
        entries = [(f"p{i}", p) for i, p in enumerate(params)] if named else list(params)
        rate = torch.tensor(lr, dtype=torch.float64) if tensor else lr
        optimizer = kind.make([{"params": entries[:cut], **keys}], lr=rate, **path)
        optimizer.add_param_group({"params": entries[cut:], "lr": torch.tensor(0.05) if tensor else 0.05})
        return optimizer

    optimizer = build(params, 0.1)
    for event in events:
        for p in params:
            absent = draw.random() < 0.15
            g = torch.randn(p.shape, generator=numbers, dtype=torch.float64).to(p.dtype)
            p.grad = None if absent else g
        optimizer.step()
        optimizer.zero_grad(set_to_none=draw.random() < 0.5)
        for group in optimizer.param_groups:
            rate = group["lr"]
            group["lr"] = rate.mul(0.9) if isinstance(rate, torch.Tensor) else rate * 0.9
        optimizer, params = event(optimizer, params, build)
    settings = [{k: v for k, v in group.items() if k not in ("params", "foreach")} for group in optimizer.param_groups]
    return [p.detach() for p in params], [dict(optimizer.state.get(p, {})) for p in params], settings


def assert_same(states: Any, others: Any) -> None:
    for state, other in zip(states, others, strict=True):
        assert state.keys() == other.keys()
        for name, value in state.items():
            assert torch.equal(value, other[name]), name
            assert value.dtype == other[name].dtype, name


@pytest.mark.parametrize("path", PATHS, ids=["plain", "foreach", "default"])
@pytest.mark.parametrize("seed", range(8))
def test_what_happens_between_steps_changes_nothing(kind: Any, seed: int, path: Any) -> None:
    draw = random.Random(100 + seed)
    events = [draw.choice(EVENTS) for _ in range(6)]
    if kind.name == "layerwise":
        events = [plain if event is through_another_dtype else event for event in events]
    params, states, settings = run(kind, seed, path, [plain] * 6)
    others, other_states, other_settings = run(kind, seed, path, events)
    assert all(map(torch.equal, params, others)), [event.__name__ for event in events]
    assert_same(states, other_states)
    assert settings == other_settings


@pytest.mark.parametrize("seed", range(8))
def test_all_paths_agree(kind: Any, seed: int) -> None:
    ends = [run(kind, seed, path, [plain] * 6) for path in PATHS]
    for params, states, _ in ends[1:]:
        torch.testing.assert_close(params, ends[0][0], rtol=2e-5, atol=2e-6)
        for state, other in zip(states, ends[0][1], strict=True):
            torch.testing.assert_close(state, other, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("seed", range(4))
def test_other_dtypes_go_through_the_same(native: Any, seed: int, dtype: torch.dtype) -> None:
    draw = random.Random(200 + seed)
    events = [draw.choice([deep, pickled, loaded, reloaded]) for _ in range(5)]
    params, states, _ = run(native, seed, {}, [plain] * 5, dtype)
    others, other_states, _ = run(native, seed, {}, events, dtype)
    assert all(map(torch.equal, params, others)), [event.__name__ for event in events]
    assert_same(states, other_states)


@pytest.mark.parametrize("seed", range(4))
def test_a_layerwise_loads_and_saves_as_its_base_does(seed: int) -> None:
    """AdamW beside one that is wrapped and adapts nothing: the same numbers, and states that change places."""
    from anybatch.optim import Layerwise

    numbers = torch.Generator().manual_seed(seed)
    xs = [torch.randn(shape, generator=numbers, dtype=torch.float64) for shape in [(4, 3), (5,)]]
    ours, theirs = ([torch.nn.Parameter(x.clone()) for x in xs] for _ in range(2))
    base = torch.optim.AdamW(theirs, lr=0.1)
    wrapped = Layerwise(torch.optim.AdamW([{"params": ours, "adapt": False}], lr=0.1))
    for _ in range(6):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=numbers, dtype=torch.float64)
            other.grad = one.grad.clone()
        base.step()
        wrapped.step()
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
        one, other = copy.deepcopy(wrapped.state_dict()), copy.deepcopy(base.state_dict())
        base.load_state_dict(one)
        wrapped.load_state_dict(other)
        assert wrapped.param_groups[0]["adapt"] is False
