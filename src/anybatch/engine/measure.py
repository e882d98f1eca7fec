"""Measures a step: its speed, its use of the hardware, its trust ratios in brief, and the noise of its gradient."""

import math
import resource
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from anybatch.accelerators import Precision, find_accelerator
from anybatch.engine.job import Job, NoiseMeter, Phase
from anybatch.engine.parallel import Parallel
from anybatch.engine.ranks import Ranks


def measurements(phase: Phase, step_s: float, ranks: Ranks, peak: float | None) -> dict[str, Any]:
    """Returns throughput of all ranks, model FLOPs utilization (MFU), and rank 0's memory.

    MFU is the model's FLOPs over all devices' `peak` FLOP/s; None if either is unknown.
    """
    examples_per_s = phase.global_batch_size / step_s
    known = peak is not None and phase.flops_per_example is not None
    mfu = examples_per_s * (phase.flops_per_example or 0.0) / (ranks.size * (peak or 1.0)) if known else None
    return {"examples_per_s": examples_per_s, "mfu": mfu, "memory_bytes": memory_bytes(ranks.device)}


def peak_flops(device: torch.device, precision: Precision, model: nn.Module) -> float | None:
    """Returns the device's dense FLOP/s in the arithmetic that a run in `precision` really uses; None if unknown.

    fp32 products use TF32 units only if torch allows it: by default it does for convolutions, not for matrices.
    """
    accelerator = find_accelerator(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if accelerator is None:
        return None
    if precision == "fp32" and "tf32" in accelerator.peak_flops and _allows_tf32(model):
        precision = "tf32"
    return accelerator.peak_flops.get(precision)


def _allows_tf32(model: nn.Module) -> bool:
    if any(isinstance(module, nn.modules.conv._ConvNd) for module in model.modules()):
        return bool(torch.backends.cudnn.allow_tf32)
    return torch.get_float32_matmul_precision() != "highest"


def memory_bytes(device: torch.device) -> int:
    """Returns the largest memory of this process so far: the GPU's, or without one the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def quantiles(ratios: Mapping[str, float]) -> dict[str, float]:
    """Returns the minimum, the 10 %, 50 % and 90 % quantiles and the maximum of a step's finite trust ratios."""
    known = sorted(ratio for ratio in ratios.values() if math.isfinite(ratio))
    if not known:
        return {}
    places = {"min": 0.0, "p10": 0.1, "p50": 0.5, "p90": 0.9, "max": 1.0}
    return {name: known[round(share * (len(known) - 1))] for name, share in places.items()}


class WatchedNoise:
    """The job's meter of gradient noise, if it has one, on the steps that the run watches.

    The watched steps depend only on the step number, so a resumed run watches the same ones. Each rank gives a
    gradient, and so does each micro-batch; if there is only one, the watched step is cut in two.
    """

    def __init__(self, job: Job, parallel: Parallel) -> None:
        self._every = job.execution.noise_every
        make = job.noise_meter if self._every else None
        self._meter = None if make is None else make(parallel.model)
        self._size = parallel.ranks.size
        # Shards are summed over ranks before anybody sees them, so only micro-batches can differ.
        self._alone = self._size == 1 or parallel.sums_in_backward

    def meter(self, step: int, phase: Phase) -> NoiseMeter | None:
        """Returns the meter if step `step` is watched."""
        parts = phase.global_batch_size if phase.group_size is None else -(-phase.global_batch_size // phase.group_size)
        fewest = 2 * self._size if self._alone else 2
        return self._meter if self._every and (step + 1) % self._every == 0 and parts >= fewest else None

    def micro_batch_size(self, step: int, phase: Phase, chosen: int) -> int:
        """Returns `chosen`, or a size that cuts every rank's share of a watched step in two."""
        if not self._alone or self.meter(step, phase) is None:
            return chosen
        return min(chosen, -(-(phase.global_batch_size // self._size) // 2))
