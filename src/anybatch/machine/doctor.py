"""Finds what is installed, which kernels take a step, how fast memory is, and the command that installs the rest."""

import os
import re
import shutil
import statistics
import subprocess
import time
from importlib.metadata import PackageNotFoundError, requires
from typing import Any

import torch

from anybatch.environment import describe_environment, version_of
from anybatch.optim.kernels import why_not_fused

_READY = "ready"
# The other extras are for work on the package itself.
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+).*extra == ['\"]([a-z]+)['\"]")
PACKAGES = ("anybatch", "torch", "numpy", "triton", "timm", "pytorch_optimizer", "optax", "jax")
_FOR_USERS = ("train", "study", "parquet", "hub", "tensorboard")


def examine() -> dict[str, Any]:
    """Returns by subject, JSON values only: the machine, what is installed, and the ways to take a step here."""
    place = describe_environment()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    compiler = _compiler()
    fused = {"CPU": _serves("cpu"), "CUDA": _serves("cuda") if gpus else "no GPU"}
    extras = _missing()
    mend = {
        name: f"pip install 'anybatch[{name}]'" for name, packages in extras.items() if packages and name in _FOR_USERS
    }
    if fused["CPU"] != _READY:
        first = "" if compiler is not None else "install a C compiler (apt install gcc, xcode-select --install), then "
        mend["fused step on the CPU"] = (
            f"{first}pip install --force-reinstall --no-deps --no-binary anybatch anybatch (in a clone: .)"
        )
    return {
        "python": place["python"],
        "platform": place["platform"],
        "processor": place["processor"],
        "cores": place["cores"],
        "threads": place["threads"],
        "memory": f"{place['memory_bytes'] / 1e9:.1f} GB",
        "memory, copied": f"{_copied_gb_per_s():.0f} GB/s read and written, on {place['threads']} threads",
        "GPU": ", ".join(gpus) or "none that torch can use",
        "C compiler": compiler or "none found",
        "package": {name: version_of(name) or "not installed" for name in PACKAGES},
        "extra": {
            name: f"missing {', '.join(packages)}" if packages else "installed"
            for name, packages in extras.items()
            if name in _FOR_USERS
        },
        "fused step": fused,
        "to mend": mend or "nothing is missing",
    }


def _missing() -> dict[str, list[str]]:
    """Missing packages of each optional extra; empty if anybatch is not installed."""
    try:
        declared = requires("anybatch") or []
    except PackageNotFoundError:
        return {}
    found: dict[str, list[str]] = {}
    for match in filter(None, map(_REQUIREMENT.match, declared)):
        package, extra = match.groups()
        found.setdefault(extra, []).extend([] if version_of(package) else [package])
    return found


def _copied_gb_per_s() -> float:
    """Returns the median of seven copies of 64 MiB, more than a cache holds for long."""
    source = torch.ones(2**24)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        target.copy_(source)
        seconds.append(time.perf_counter() - start)
    return 2 * source.nbytes / statistics.median(seconds) / 1e9


def _serves(device: str) -> str:
    reason = why_not_fused(torch.device(device), torch.float32, {"norm": "l2"})
    return _READY if reason is None else f"not available: {reason}; steps are plain or foreach"


def _compiler() -> str | None:
    command = os.environ.get("CC") or next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if command is None:
        return None
    try:
        answer = subprocess.run([*command.split(), "--version"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command} does not run: {error}"
    return answer.stdout.partition("\n")[0].strip() or f"{command} does not say its version"
