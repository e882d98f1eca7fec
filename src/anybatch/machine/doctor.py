"""What is installed here, which kernels take a step, and why others do not."""

import os
from typing import Any

import torch

from anybatch.engine.environment import describe_environment
from anybatch.machine.installed import versions


def examine() -> dict[str, Any]:
    """JSON values, by subject: versions, processor, GPU, C compiler, and the ways a step can be computed."""
    place = describe_environment()
    return {
        "python": place["python"],
        "platform": place["platform"],
        "processor": place["processor"],
        "cores": f"{len(os.sched_getaffinity(0))} usable of {place['cores']}",
        "threads": torch.get_num_threads(),
        "memory": f"{place['memory_bytes'] / 1e9:.0f} GB",
        "gpu": _gpus(),
        "c_compiler": _compiler(),
        "packages": {name: found or "not installed" for name, found in versions().items()},
        "step": {"CPU": _ways(torch.device("cpu")), "CUDA": _cuda_ways()},
    }
