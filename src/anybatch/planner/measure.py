"""This machine as a cluster, measured in about two seconds."""

import os
import time
from collections.abc import Callable

import torch

from anybatch.planner.accelerators import Accelerator, Achieved
from anybatch.planner.cluster import Cluster
from anybatch.planner.collectives import Link


def measure_this_machine() -> Cluster:
    """The GPU that torch sees, or else the CPU on torch's threads: matrix products and copies, the best of several.

    What a model reaches of a matrix product's rate is assumed (60 %); `--calibrate` measures it.
    """
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    devices = torch.cuda.device_count() if gpu else 1
    size = 4096 if gpu else 768
    assumed = Achieved(0.6, "of a measured matrix product; assumed", measured=False)
    accelerator = Accelerator(
        name=torch.cuda.get_device_name() if gpu else f"this CPU on {torch.get_num_threads()} threads",
        peak_flops=_product_rate(size, torch.bfloat16, device),
        peak_flops_fp32=_product_rate(size, torch.float32, device),
        memory_bytes=torch.cuda.get_device_properties(0).total_memory if gpu else _physical_memory(),
        memory_bytes_per_s=_copy_rate(2**28 if gpu else 2**26, device),
        power_w=None,
        achieved={"transformer": assumed, "convolution": assumed},
        kernel_s=4e-6 if gpu else 1e-5,
    )
    link = Link(bytes_per_s=16e9 if gpu else 2e9, latency_s=1e-5 if gpu else 1e-3)
    return Cluster(
        name="this-machine",
        title=f"this machine: {devices} x {accelerator.name}, measured now",
        accelerator=accelerator,
        devices_a_node=devices,
        most_devices=devices,
        inside=link,
        between=link,
        host_bytes_per_s=2e9,
        storage_bytes_per_s=0.5e9,
    )


def _product_rate(size: int, dtype: torch.dtype, device: torch.device) -> float:
    left = torch.ones(size, size, dtype=dtype, device=device)
    return 2 * size**3 / _best_s(lambda: left @ left, device)


def _copy_rate(num_bytes: int, device: torch.device) -> float:
    """Bytes read and written a second."""
    source = torch.ones(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / _best_s(lambda: target.copy_(source), device)


def _best_s(work: Callable[[], object], device: torch.device, budget_s: float = 0.4) -> float:
    """Seconds of `work`, the least of at least three runs within `budget_s`."""
    best, started, runs = float("inf"), time.perf_counter(), 0
    while runs < 3 or time.perf_counter() - started < budget_s:
        before = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best, runs = min(best, time.perf_counter() - before), runs + 1
    return best


def _physical_memory() -> float:
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
