"""Measured hardware instead of assumptions: this machine in about two seconds, or the steps of a short run."""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.benchmark import Timer

from anybatch.accelerators import Accelerator, Precision
from anybatch.environment import physical_memory
from anybatch.errors import InputError
from anybatch.planner.cluster import Cluster, Link, Mfu
from anybatch.planner.device_memory import Layout
from anybatch.planner.step_time import step_time
from anybatch.planner.workload import workload_of
from anybatch.recipes import from_json
from anybatch.runs import open_run

# The first steps load libraries, compile and fill caches.
_WARMING_UP = 3
_FEWEST_STEPS = 5


def measure_this_machine() -> Cluster:
    """Measures matrix products and copies, the best of several, on torch's GPU, otherwise on the CPU.

    The share of a matrix product's speed that a model reaches is assumed (60 %); `--calibrate` measures it.
    """
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    devices = torch.cuda.device_count() if gpu else 1
    accelerator = Accelerator(
        name=torch.cuda.get_device_name() if gpu else f"this CPU on {torch.get_num_threads()} threads",
        peak_flops=_peaks(device),
        memory_bytes=torch.cuda.get_device_properties(0).total_memory if gpu else physical_memory(),
        memory_bytes_per_s=_copy_rate(2**28 if gpu else 2**26, device),
    )
    assumed = Mfu(0.6, "of a measured matrix product; assumed", measured=False)
    families = ("transformer", "convolution")
    link = Link(bytes_per_s=16e9 if gpu else 2e9, latency_s=1e-5 if gpu else 1e-3)
    return Cluster(
        name="this-machine",
        title=f"this machine: {devices} x {accelerator.name}, measured now",
        accelerator=accelerator,
        devices_a_node=devices,
        most_devices=devices,
        inside=link,
        between=link,
        mfu={**dict.fromkeys(families, assumed), **{f"{family}-fp32": assumed for family in families}},
        launch_s=4e-6 if gpu else 1e-5,
        host_bytes_per_s=2e9,
        storage_bytes_per_s=0.5e9,
        auto_precision="fp32" if not gpu else "bf16" if "bf16" in accelerator.peak_flops else "fp16",
    )


def calibrate(cluster: Cluster, folder: Path) -> tuple[Cluster, dict[str, Any]]:
    """Returns `cluster` with the MFU for which the planned step of the run in `folder` is as long as the measured one.

    Returns:
        The cluster; {"run", "num_steps", "step_s": the median, "mfu": the new one, "before": the cluster's}.

    Raises:
        InputError: not a run that can be planned, too few steps, other hardware, or steps too short for the model.
    """
    run = open_run(folder)
    start = next(iter(run.metrics("start")), {})
    recipe = from_json(run.recipe())
    workload = workload_of(recipe, cluster, start.get("precision"))
    family, precision = workload.family, workload.precision
    events = run.metrics("train")
    # Only the first phase: all its steps have one batch and one length of examples.
    steps = [event["step_s"] for event in events if event.get("phase", 0) == 0 and "step_s" in event]
    if len(steps) < _WARMING_UP + _FEWEST_STEPS:
        raise InputError(f"{folder}: {len(steps)} steps: calibration needs at least {_WARMING_UP + _FEWEST_STEPS}")
    step_s = median(steps[_WARMING_UP:])
    if start.get("device", "cpu") == "cpu" and cluster.name != "this-machine":
        raise InputError(f"{folder}: the run was computed on a CPU and says nothing of {cluster.name}")
    num_devices = int(start.get("ranks", 1))
    layout = Layout(
        fsdp=start.get("parallel") == "fsdp",
        checkpointing=recipe.engine.activation_checkpointing,
        micro_batch_size=int(next(iter(start.get("micro_batch_sizes", [])), 0)) or recipe.engine.evaluation_batch_size,
    )

    def planned_s(share: float) -> float:
        changed = cluster.with_mfu(family, precision, Mfu(share, ""))
        return sum(step_time(workload, workload.phases[0], changed, num_devices, workload.batch_size, layout).values())

    if planned_s(1.0) > step_s:
        raise InputError(
            f"{folder}: its steps took {step_s:.4g} s, and {planned_s(1.0):.4g} s is the least that {cluster.name} "
            f"could; it ran on other hardware"
        )
    low, high = 1e-6, 1.0
    while high / low > 1 + 1e-9:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if planned_s(middle) > step_s else (low, middle)
    before = cluster.mfu_of(family, precision).share
    found = {"run": str(folder), "num_steps": len(steps), "step_s": step_s, "mfu": high, "before": before}
    return cluster.with_mfu(family, precision, Mfu(high, f"calibrated by {folder}")), found


def _peaks(device: torch.device) -> dict[Precision, float]:
    gpu = device.type == "cuda"
    found: dict[Precision, torch.dtype] = {"fp32": torch.float32}
    if gpu:
        found["fp16"] = torch.float16
    if not gpu or torch.cuda.is_bf16_supported(including_emulation=False):
        found["bf16"] = torch.bfloat16
    return {name: _product_rate(4096 if gpu else 768, dtype, device) for name, dtype in found.items()}


def _product_rate(size: int, dtype: torch.dtype, device: torch.device) -> float:
    left = torch.ones(size, size, dtype=dtype, device=device)
    return 2 * size**3 / _best_s(lambda: left @ left)


def _copy_rate(num_bytes: int, device: torch.device) -> float:
    """Returns the bytes read and written a second."""
    source = torch.ones(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / _best_s(lambda: target.copy_(source))


def _best_s(work: Callable[[], object]) -> float:
    """Returns the seconds of `work`, the minimum over 0.4 s; waits for the GPU."""
    timer = Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
    return min(timer.blocked_autorange(min_run_time=0.4).times)
