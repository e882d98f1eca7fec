"""The fused optimizer step on a GPU: is it right, and how fast? One command, on a machine with a CUDA GPU:

    python benchmarks/gpu/optimizer_step.py [--out benchmarks/results/optimizer-step-gpu.json]

Needs torch with CUDA, triton and NumPy; timm is measured where it is installed. Nothing is asserted about time; what is
wrong with a result ends the script with exit code 1 before anything is timed.

First the Triton step is held to the plain path in float64, over the settings that change its arithmetic, ragged and
unaligned tensors, bf16 with masters, clipping, skipping, and replays of a CUDA graph. Then one step of each is timed,
all in turn, the median of 21: on the device, which sleeps until the host has launched the whole step, so that Python is
not timed; and on the host by itself. A step that reads a number from the device waits, and both times include that.
Beside them stand the kernels of a step, the bytes that it must move, and the share of what a copy of device memory
reaches in the same run. The file is written after each set of shapes.
"""

import argparse
import importlib
import importlib.util
import itertools
import math
import platform
import statistics
import sys
import types
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gpu.clocks import device_ms, host_ms, kernels

from anybatch.files import write_json
from anybatch.machine.shapes import SETS, find_shapes
from anybatch.optim import LAMB, LARS

CUDA = torch.device("cuda")
SAMPLES = 21
RAGGED = [*range(1, 34), 63, 64, 65, 1_000, 1_001, 32_768, 32_769, 100_003, 262_144]
LAMB_SETTINGS: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.0},
    {"bias_correction": False, "betas": (0.5, 0.7), "eps": 1e-3},
    {"nesterov": "m"},
    {"nesterov": "mv", "maximize": True},
    {"phi": (0.5, 2.0), "trust_clip": (0.01, 0.3)},
    {"max_grad_norm": 0.5},
    {"max_grad_norm": 0.5, "nonfinite": "skip"},
    {"capturable": True},
]
LARS_SETTINGS: list[dict[str, Any]] = [
    {"weight_decay": 0.1, "eps": 0.1},
    {"nesterov": True, "max_grad_norm": 1.0},
    *(
        {"form": form, "joint_norm": joint, "nesterov": nesterov, "weight_decay": 0.1, "trust_coefficient": 0.5}
        for form, joint, nesterov in itertools.product(("lars-2017", "lr-outside"), (False, True), (False, True))
    ),
]


class Wrong(SystemExit):
    """The fused step is not what it must be."""


def layers(dtype: torch.dtype, device: torch.device, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Every size from one backing tensor, so that most begin where no vector can be loaded; not adapted; in blocks."""
    random = torch.Generator(device).manual_seed(0)
    flat = torch.randn(sum(sizes), generator=random, device=device, dtype=torch.float32).to(dtype)
    whole = [torch.nn.Parameter(x) for x in flat.split(list(sizes))]
    blocks = torch.nn.Parameter(torch.randn(96, 131, generator=random, device=device).to(dtype))
    last = len(whole) * 9 // 10
    return [{"params": whole[:last]}, {"params": whole[last:], "adapt": False}, {"params": [blocks], "blocks": 3}]


def run(
    make: Callable[..., Any],
    dtype: torch.dtype,
    steps: int,
    device: torch.device,
    sizes: Sequence[int],
    **settings: Any,
) -> tuple[torch.Tensor, Any]:
    """All parameters after some steps, and the optimizer."""
    groups = layers(torch.float32 if dtype is torch.float64 else dtype, device, sizes)
    for group in groups:
        group["params"] = [torch.nn.Parameter(p.detach().to(dtype)) for p in group["params"]]
    optimizer = make(groups, lr=0.05, **settings)
    params = [p for group in groups for p in group["params"]]
    random = torch.Generator(device).manual_seed(1)
    for _ in range(steps):
        for p in params:
            narrow = torch.randn(p.shape, generator=random, device=device).to(torch.bfloat16)
            p.grad = narrow.to(dtype)
        optimizer.step()
    return torch.cat([p.detach().double().flatten() for p in params]), optimizer


def check(
    device: torch.device = CUDA,
    sizes: Sequence[int] = RAGGED,
    lamb: Sequence[dict[str, Any]] = LAMB_SETTINGS,
    lars: Sequence[dict[str, Any]] = LARS_SETTINGS,
) -> list[dict[str, Any]]:
    """How far the fused and the plain fp32 step are from float64; Wrong where the first is more than twice."""
    found = []
    for make, several in ((LAMB, lamb), (LARS, lars)):
        for settings in several:
            exact, _ = run(make, torch.float64, 3, device, sizes, foreach=False, **settings)
            plain, _ = run(make, torch.float32, 3, device, sizes, foreach=False, **settings)
            fused, optimizer = run(make, torch.float32, 3, device, sizes, fused=True, **settings)
            again, _ = run(make, torch.float32, 3, device, sizes, fused=True, **settings)
            row = {
                "optimizer": make.__name__,
                "settings": {name: str(value) for name, value in settings.items()},
                "plain": ((plain - exact).norm() / exact.norm()).item(),
                "fused": ((fused - exact).norm() / exact.norm()).item(),
                "repeats_bitwise": torch.equal(fused, again),
                "ratios_finite": all(math.isfinite(ratio.ratio) for ratio in optimizer.trust_ratios().values()),
            }
            found.append(row)
            print(f"{row['optimizer']} {row['settings']}: plain {row['plain']:.1e}, fused {row['fused']:.1e}")
            if not row["fused"] <= 2 * row["plain"] + 1e-8 or not row["repeats_bitwise"] or not row["ratios_finite"]:
                raise Wrong("wrong: see the line above")
        _, optimizer = run(make, torch.bfloat16, 3, device, sizes, fused=True, master_weights=True)
        plain, other = run(make, torch.bfloat16, 3, device, sizes, foreach=False, master_weights=True)
        distance = max(
            (optimizer.state[p]["master"] - other.state[x]["master"]).abs().max().item()
            for p, x in zip(
                itertools.chain(*(group["params"] for group in optimizer.param_groups)),
                itertools.chain(*(group["params"] for group in other.param_groups)),
                strict=True,
            )
        )
        print(f"{make.__name__} bf16 with masters: largest distance of a master from the plain path's {distance:.1e}")
        if distance > 1e-4:
            raise Wrong("wrong: see the line above")
        found.append({"optimizer": make.__name__, "bf16_masters_distance": distance})
    return [*found, check_graph()] if device.type == "cuda" else found


def check_graph() -> dict[str, Any]:
    """Replays of a captured step, with the rate on the device and eager steps in between, against eager steps alone."""
    runs = []
    for captured in (True, False):
        groups = layers(torch.float32, CUDA, RAGGED)
        params = [p for group in groups for p in group["params"]]
        lr = torch.tensor(0.05, device=CUDA)
        optimizer = LAMB(groups, lr=lr, fused=True, capturable=True, max_grad_norm=1.0)
        for p in params:
            p.grad = torch.ones_like(p)
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            optimizer.step()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        if captured:
            with torch.cuda.graph(graph):
                optimizer.step()
        for step in range(4):
            lr.fill_(0.05 / (step + 1))
            random = torch.Generator(CUDA).manual_seed(step)
            for p in params:
                p.grad.copy_(torch.randn(p.shape, generator=random, device=CUDA))
            if captured and step != 2:
                graph.replay()
            elif captured:  # an eager step with gradients elsewhere must not disturb the graph
                kept = [p.grad for p in params]
                for p in params:
                    p.grad = p.grad.clone()
                optimizer.step()
                for p, g in zip(params, kept, strict=True):
                    p.grad = g
            else:
                optimizer.step()
        torch.cuda.synchronize()
        runs.append(torch.cat([p.detach().flatten() for p in params]))
    same = torch.equal(*runs)
    print(f"CUDA graph: replays {'have the bits of' if same else 'DIFFER from'} eager steps")
    if not same:
        raise Wrong("wrong: see the line above")
    return {"graph_bitwise": same}


def timm_lamb() -> Any:
    """timm's class, without torchvision; None where timm is not installed."""
    found = importlib.util.find_spec("timm")
    if found is None or found.origin is None:
        return None
    package = types.ModuleType("timm_optim")
    package.__path__ = [str(Path(found.origin).parent / "optim")]
    sys.modules["timm_optim"] = package
    return importlib.import_module("timm_optim.lamb").Lamb


def contenders(params: list[torch.nn.Parameter], compiled: bool) -> dict[str, tuple[float | None, Callable[[], Any]]]:
    """Of each, the bytes a parameter that its step must move, where that is known, and the step."""
    lamb: dict[str, Any] = {"lr": 1e-6, "weight_decay": 0.01}
    rows: dict[str, tuple[float | None, Callable[[], Any]]] = {
        "anybatch LAMB fused": (40, LAMB(params, fused=True, **lamb).step),
        "anybatch LAMB fused, clipped": (44, LAMB(params, fused=True, max_grad_norm=1.0, **lamb).step),
        "anybatch LAMB foreach": (None, LAMB(params, foreach=True, **lamb).step),
        "anybatch LARS fused": (28, LARS(params, fused=True, **lamb).step),
        "torch AdamW fused": (28, torch.optim.AdamW(params, fused=True, **lamb).step),
        "torch AdamW foreach": (None, torch.optim.AdamW(params, foreach=True, **lamb).step),
    }
    timm = timm_lamb()
    if timm is not None:
        theirs = timm(params, always_adapt=True, max_grad_norm=None, foreach=True, **lamb)
        rows["timm Lamb foreach"] = (None, theirs.step)
    return {**rows, **(on_cuda(params, lamb, compiled) if params[0].is_cuda else {})}


def on_cuda(
    params: list[torch.nn.Parameter], lamb: dict[str, Any], compiled: bool
) -> dict[str, tuple[float | None, Callable[[], Any]]]:
    """What needs a GPU: a compiled step, and one that is replayed as a graph."""
    rows: dict[str, tuple[float | None, Callable[[], Any]]] = {}
    if compiled and len(params) < 1_000:
        eager = LAMB(params, foreach=True, capturable=True, lr=torch.tensor(1e-6, device=CUDA), weight_decay=0.01)
        rows["torch.compile of the foreach LAMB"] = (None, torch.compile(eager.step))
    rows["anybatch LAMB fused, CUDA graph"] = (40, graphed(params, lamb))
    return rows


def graphed(params: list[torch.nn.Parameter], lamb: dict[str, Any]) -> Callable[[], Any]:
    optimizer = LAMB(params, fused=True, capturable=True, **lamb)
    optimizer.step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    return graph.replay


def with_gradients(shapes: Sequence[Sequence[int]], device: torch.device) -> list[torch.nn.Parameter]:
    params = [torch.nn.Parameter(torch.randn(*shape, device=device) * 0.02) for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p) * 1e-3
    return params


def measure(name: str, device: torch.device = CUDA, samples: int = SAMPLES, compiled: bool = True) -> dict[str, Any]:
    """One set of shapes, or those of the recipe called `name`; `compiled`: torch.compile, too, which takes a minute."""
    shapes = find_shapes(name)
    numel = sum(math.prod(shape) for shape in shapes)
    params = with_gradients(shapes, device)
    source, target = torch.empty(2, numel, device=device)
    steps: dict[str, tuple[float | None, Callable[[], Any]]] = {
        "device copy": (8, lambda: target.copy_(source)),
        **contenders(params, compiled),
    }
    for _, step in steps.values():
        for _ in range(3):
            step()
    on_device: dict[str, list[float]] = {label: [] for label in steps}
    on_host: dict[str, list[float]] = {label: [] for label in steps}
    for _ in range(samples):
        for label, (_, step) in steps.items():
            on_device[label].append(device_ms(step, device))
            on_host[label].append(host_ms(step, device))
    copy_rate = 8 * numel / statistics.median(on_device["device copy"])
    rows = []
    for label, (number, step) in steps.items():
        median = statistics.median(on_device[label])
        row = {
            "name": label,
            "median_ms": median,
            "host_ms": statistics.median(on_host[label]),
            "launches": len(kernels(step, device)),
            "samples_ms": on_device[label],
            "bytes_per_parameter": number,
        }
        if number is not None:
            row["share_of_copy"] = number * numel / median / copy_rate
        rows.append(row)
        share = f", {100 * row['share_of_copy']:.0f} % of the copy's rate" if number is not None else ""
        print(f"{name}: {label}: {median:.3f} ms, host {row['host_ms']:.3f} ms, {row['launches']} kernels{share}")
    return {"name": name, "tensors": len(shapes), "parameters": numel, "rows": rows}


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/optimizer-step-gpu.json"))
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--check", action="store_true", help="correctness alone")
    parser.add_argument("--one-step", action="store_true", help="one step of ragged tensors, for a sanitizer to watch")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA GPU here")
    if arguments.one_step:
        run(LAMB, torch.float32, 1, CUDA, RAGGED, fused=True, max_grad_norm=1.0)
        torch.cuda.synchronize()
        return
    checks = check()
    if arguments.check:
        return
    environment = {
        "device": torch.cuda.get_device_name(),
        "driver_cuda": torch.version.cuda,
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in ("torch", "triton", "timm")},
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    sets: list[dict[str, Any]] = []
    for name in arguments.sets:
        sets.append(measure(name))
        torch.cuda.empty_cache()
        write_json(arguments.out, {"environment": environment, "checks": checks, "sets": sets})


if __name__ == "__main__":
    main()
