"""What is installed here, which kernels take a step, and why others do not."""

import os
import shutil
import subprocess
from typing import Any

import torch

from anybatch.engine.environment import describe_environment
from anybatch.machine.installed import versions
from anybatch.optim.kernels import why_not_fused

# The settings on which it depends whether a kernel serves.
_SETTINGS = {"norm": "l2", "fused": True, "foreach": None}


def examine() -> dict[str, Any]:
    """By subject, JSON values only: where this is, what is installed, and the ways a step can be taken here."""
    place = describe_environment()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": place["python"],
        "platform": place["platform"],
        "processor": place["processor"],
        "cores": place["cores"],
        "threads": place["threads"],
        "memory": f"{place['memory_bytes'] / 1e9:.1f} GB",
        "GPU": ", ".join(gpus) or "none that torch can use",
        "C compiler": _compiler(),
        "package": {name: found or "not installed" for name, found in versions().items()},
        "fused step": {"CPU": _serves("cpu"), "CUDA": _serves("cuda") if gpus else "no GPU"},
    }


def _serves(device: str) -> str:
    reason = why_not_fused(torch.device(device), torch.float32, _SETTINGS)
    return "ready" if reason is None else f"not available: {reason}; steps are plain or foreach"


def _compiler() -> str:
    command = os.environ.get("CC") or next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if command is None:
        return "none found"
    try:
        answer = subprocess.run([*command.split(), "--version"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command} does not run: {error}"
    return answer.stdout.partition("\n")[0].strip() or f"{command} does not say its version"
