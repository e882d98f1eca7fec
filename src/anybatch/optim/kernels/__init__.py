"""The same step, fused: which kernels there are for a device, and why one does not serve."""

import importlib
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

# Device type -> the module of its kernels, imported when first asked for.
BACKENDS = {"cpu": "anybatch.optim.kernels.cpu", "cuda": "anybatch.optim.kernels.triton_parts"}


@cache
def _module(device_type: str) -> Any:
    """The module, or a string that says why there is none."""
    if device_type not in BACKENDS:
        return f"there are no fused kernels for {device_type}"
    try:
        module = importlib.import_module(BACKENDS[device_type])
    except ImportError as error:
        return f"the kernels for {device_type} cannot be imported: {error}"
    return module.unavailable() or module


def why_not_fused(device: torch.device, dtype: torch.dtype, group: Mapping[str, Any]) -> str | None:
    """Why parameters of this device and dtype cannot be stepped by a fused kernel under the group's settings."""
    module = _module(device.type)
    if isinstance(module, str):
        return module
    why: str | None = module.why_not(dtype, group)
    return why


def wants_fused(device: torch.device, dtype: torch.dtype, group: Mapping[str, Any]) -> bool:
    """Returns whether a fused step is to be used: as the group says; by default, on a CPU that has one.

    foreach=False asks for the plain path, as in torch.optim. So does capturable on a CPU: a fused step reads the
    learning rate on the host.
    """
    if group["fused"] is not None:
        return bool(group["fused"])
    free = group["foreach"] is None and not group["capturable"] and device.type == "cpu"
    return free and why_not_fused(device, dtype, group) is None


def kernels_for(device: torch.device) -> Any:
    """The module whose `Launches` step parameters of this device; `why_not_fused` must have nothing to say."""
    return _module(device.type)
