"""How fast a step was, how much of the hardware it used, and how its trust ratios are spread."""

import math
import resource
import sys
from collections.abc import Mapping
from typing import Any

import torch

from anybatch.engine.job import Phase
from anybatch.engine.ranks import Ranks

# Dense bf16 products a second, from the makers' data sheets; an A100's in the first entry that fits its name.
_PEAK_FLOPS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A10G": 70e12,
    "L40S": 362e12,
    "V100": 125e12,
}


def measurements(phase: Phase, step_s: float, ranks: Ranks) -> dict[str, Any]:
    """Throughput of all ranks, the share of the device's peak that the model's own FLOPs take, and rank 0's memory.

    The share is None where the model's cost or the device's peak is not known, as for every CPU.
    """
    examples_per_s = phase.global_batch_size / step_s
    peak = peak_flops(ranks.device)
    known = peak is not None and phase.flops_per_example is not None
    share = examples_per_s * (phase.flops_per_example or 0.0) / (ranks.size * (peak or 1.0)) if known else None
    return {"examples_per_s": examples_per_s, "model_flops_share": share, "memory_bytes": memory_bytes(ranks.device)}


def peak_flops(device: torch.device) -> float | None:
    """The device's dense bf16 FLOP/s; None where this table does not have it."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in _PEAK_FLOPS.items() if part in name), None)


def memory_bytes(device: torch.device) -> int:
    """The most memory that this process has taken so far: the GPU's, or without one its own."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def quantiles(ratios: Mapping[str, float]) -> dict[str, float]:
    """The least, the 10 %, 50 % and 90 % quantile and the greatest of a step's trust ratios, those that are finite."""
    known = sorted(ratio for ratio in ratios.values() if math.isfinite(ratio))
    if not known:
        return {}
    places = {"min": 0.0, "p10": 0.1, "p50": 0.5, "p90": 0.9, "max": 1.0}
    return {name: known[round(share * (len(known) - 1))] for name, share in places.items()}
