"""The environment of a run: versions, hardware, threads, source revision."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from anybatch.process import masked

_PACKAGES = ("anybatch", "torch", "numpy", "transformers", "tokenizers", "safetensors")


def describe_environment() -> dict[str, Any]:
    """Returns what somebody needs to repeat the run; JSON values only."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *map(masked, sys.argv[1:])],
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": physical_memory(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "versions": {name: found for name in _PACKAGES if (found := version_of(name))},
        "git_revision": _git_revision(),
    }


def version_of(package: str) -> str | None:
    """Returns the package's version; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def physical_memory() -> int:
    """Returns this machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def half_of_memory() -> int:
    """Returns the bytes that one purpose may plan to use."""
    return physical_memory() // 2


def available_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git_revision() -> str | None:
    """Returns the revision of the checkout that this package runs from; None if it was installed from a package."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(checkout), "describe", "--always", "--dirty"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
