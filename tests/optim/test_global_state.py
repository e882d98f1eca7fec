"""A step depends on nothing that PyTorch keeps for the whole process, and needs no numbers to be taken."""

import ast
import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from anybatch import GradientNoiseScale
from anybatch.optim import LAMB, LARS, Layerwise, param_groups
from anybatch.optim.kernels.library import address

SOURCE = Path(__file__).parents[2] / "src" / "anybatch"
MAKERS = {"tensor", "as_tensor", "scalar_tensor", "zeros", "ones", "empty", "full", "arange", "linspace", "eye", "rand"}


@contextmanager
def default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


STATES = {
    "meta": lambda: default_device("meta"),
    "a device's context": lambda: torch.device("meta"),
    "bf16": lambda: default_dtype(torch.bfloat16),
    "fp16": lambda: default_dtype(torch.float16),
    "fp64": lambda: default_dtype(torch.float64),
    "deterministic": deterministic,
    "no gradients": torch.no_grad,
}
WAYS = [{}, {"foreach": False}, {"foreach": True}]


def stepped(kind: Any, way: Any, path: Any, state: Any = None) -> Any:
    """Six steps, loading in their middle; what is left of everything."""
    random = torch.Generator().manual_seed(0)
    shapes = [(6, 4), (6,), ()]
    params = [
        torch.nn.Parameter(torch.randn(s, generator=random).to(dtype))
        for dtype in (torch.float32, torch.bfloat16)
        for s in shapes
    ]
    gradients = [[torch.randn(p.shape, generator=random).to(p.dtype) for p in params] for _ in range(6)]
    groups = [{"params": params[:1], "blocks": 3}, {"params": params[1:4]}, {"params": params[4:], "adapt": False}]
    optimizer = kind.make(groups, lr=0.1, **path, **way)
    with state() if state is not None else torch.enable_grad():
        for t, several in enumerate(gradients):
            for p, g in zip(params, several, strict=True):
                p.grad = g
            optimizer.step()
            if t == 2:
                optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        ratios = optimizer.trust_ratios()
    return [p.detach() for p in params], [optimizer.state[p] for p in params], ratios


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
@pytest.mark.parametrize("path", WAYS, ids=["default", "plain", "foreach"])
def test_no_setting_of_the_process_changes_a_step(kind: Any, path: Any, state: Any) -> None:
    if kind.name == "layerwise":
        # PyTorch's own optimizers keep their count in the default dtype.
        if state is STATES["bf16"] or state is STATES["fp16"]:
            return
        way = {}
    else:
        way = {"max_grad_norm": 1.0, "nonfinite": "skip"}
    plain, odd = stepped(kind, way, path), stepped(kind, way, path, state)
    torch.testing.assert_close(odd[0], plain[0], rtol=0, atol=0)
    for one, other in zip(odd[1], plain[1], strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert torch.equal(one[name].double(), other[name].double()), name
            assert kind.name == "layerwise" or one[name].dtype == other[name].dtype, name
    assert odd[2] == plain[2]


def test_a_count_is_exact_where_the_default_dtype_is_narrow() -> None:
    with default_dtype(torch.bfloat16):
        p = torch.nn.Parameter(torch.ones(4))
        optimizer = LAMB([p])
        p.grad = torch.ones(4)
        for _ in range(300):
            optimizer.step()
    assert optimizer.state[p]["step"] == 300


def test_the_noise_scale_depends_on_no_default_device() -> None:
    with torch.device("cpu"):
        model, batches = torch.nn.Linear(3, 1), torch.randn(6, 2, 4, 3)
    found = []
    for device in ("cpu", "meta"):
        with default_device(device):
            noise = GradientNoiseScale(model)
            for batch in batches:
                for micro_batch in batch:
                    (model(micro_batch).square().mean() / 2).backward()
                    noise.micro_batch(4)
                noise.step()
                model.zero_grad()
            found.append(noise.estimate())
            noise.remove()
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "path", sorted([*SOURCE.glob("optim/**/*.py"), *SOURCE.glob("scaling/*.py")]), ids=lambda p: p.stem
)
def test_every_new_tensor_is_told_its_device_and_its_dtype(path: Any) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MAKERS:
            if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "torch"):
                continue
            told = {keyword.arg for keyword in node.keywords}
            assert {"device", "dtype"} <= told, f"{path.name}:{node.lineno} leaves them to the process"


def test_no_address_outside_of_the_cpus_memory_is_given_away() -> None:
    assert address(torch.ones(1)) > 0
    for tensor in (torch.ones(1, device="meta"), torch.nn.Parameter(torch.ones(1))):
        with pytest.raises(RuntimeError, match="write to the CPU's memory alone, not to a "):
            address(tensor)
    with FakeTensorMode():
        fake = torch.ones(1)
    with pytest.raises(RuntimeError, match="not to a FakeTensor on cpu"):
        address(fake)


UNREAL = [
    lambda groups: LAMB(groups, max_grad_norm=1.0, nonfinite="skip"),
    lambda groups: LAMB(groups, foreach=True, nesterov="mv"),
    lambda groups: LAMB(groups, capturable=True, norm="l1"),
    lambda groups: LAMB(groups, master_weights=True),
    lambda groups: LARS(groups, lr=0.1, form="lars-2017", nonfinite="raise"),
    lambda groups: Layerwise(torch.optim.AdamW(groups)),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", UNREAL, ids=["lamb", "foreach", "capturable", "masters", "lars", "layerwise"])
@pytest.mark.parametrize("world", ["meta", "fake"])
def test_tensors_without_numbers_are_stepped(make: Any, dtype: torch.dtype, world: int) -> None:
    with FakeTensorMode() if world == "fake" else torch.device("meta"):
        model = torch.nn.Sequential(torch.nn.Linear(4, 2, dtype=dtype), torch.nn.LayerNorm(2, dtype=dtype))
        optimizer = make(param_groups(model))
        for _ in range(2):
            model(torch.ones(3, 4, dtype=dtype)).sum().backward()
            optimizer.step()
            optimizer.load_state_dict(optimizer.state_dict())
        ratios = optimizer.trust_ratios()
    assert list(ratios) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert all(ratio.ratio != ratio.ratio for ratio in ratios.values())
    shapes = {value.shape for value in optimizer.state[model[0].weight].values()}
    assert shapes == {(2, 4), ()} or shapes == {(2, 4)}


def test_a_rate_without_a_number_is_as_good_as_its_parameters() -> None:
    with torch.device("meta"):
        p = torch.nn.Parameter(torch.ones(3))
        optimizer = LAMB([p], lr=torch.tensor(0.1))
        p.grad = torch.ones(3)
        optimizer.step()
    assert optimizer.state[p]["step"] == 1


def test_a_state_on_another_device_is_named_before_anything_moves(native: Any) -> None:
    p, q = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    optimizer = native.make([("v", p), ("w", q)], lr=0.1)
    p.grad = q.grad = torch.ones(3)
    optimizer.step()
    before = p.detach().clone()
    name = optimizer._state_names[-1]
    optimizer.state[q][name] = optimizer.state[q][name].to("meta")
    optimizer.param_groups[0]["foreach"] = False
    with pytest.raises(RuntimeError, match=f"{name} of w is on meta, but the parameter is on cpu; no parameter"):
        optimizer.step()
    assert torch.equal(p, before)
