"""The same step, fused: which kernels there are for a device, and why one does not serve."""

import importlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch

# Device type -> the module of its kernels, imported when first asked for.
BACKENDS = {"cpu": "anybatch.optim.kernels.cpu", "cuda": "anybatch.optim.kernels.triton"}


def rule(states: Sequence[str], group: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a group of LAMB or LARS, but for lr, by the names that the kernels have for them.

    states: names of the optimizer's states, by which it is known: a loaded group may have settings of another one, too.
    kind: 0 LAMB; 1 LARS by Algorithm 1, whose momentum is an average; 2 LARS with the ratio inside the momentum.
    """
    (phi_low, phi_high), (low, high) = group["phi"], group["trust_clip"]
    shared = {
        "adapt": group["adapt"],
        "scale": -1.0 if group["maximize"] else 1.0,  # of the gradient
        "weight_decay": group["weight_decay"],
        "phi_low": phi_low,
        "phi_high": phi_high,
        "low": low,
        "high": high,
    }
    if "exp_avg_sq" in states:
        return {
            **shared,
            "kind": 0,
            "nesterov": (None, "m", "mv").index(group["nesterov"]),
            "bias_correction": group["bias_correction"],
            "beta1": group["betas"][0],
            "beta2": group["betas"][1],
            "eps": group["eps"],
            "coefficient": 1.0,
        }
    return {
        **shared,
        "kind": 1 if group["form"] == "lamb-paper" else 2,
        "nesterov": group["nesterov"],
        "joint_norm": group["joint_norm"],
        "rate_inside": group["form"] == "lars-2017",
        "beta1": group["momentum"],
        "coefficient": group["trust_coefficient"],
        "ratio_eps": group["eps"],
    }


@cache
def kernels_for(device_type: str) -> Any:
    """The module whose `Launches` step parameters on devices of this type, or a string that says why there is none."""
    if device_type not in BACKENDS:
        return f"there are no fused kernels for {device_type}"
    try:
        module = importlib.import_module(BACKENDS[device_type])
    except ImportError as error:
        return f"the kernels for {device_type} cannot be imported: {error}"
    return module.unavailable() or module


def why_not_fused(device: torch.device, dtype: torch.dtype, group: Mapping[str, Any]) -> str | None:
    """Why parameters of this device and dtype cannot be stepped by a fused kernel under the group's settings."""
    module = kernels_for(device.type)
    if isinstance(module, str):
        return module
    if dtype not in module.DTYPES:
        return f"{module.TAKES}, not {dtype}"
    return None if group["norm"] == "l2" else f"the kernels have norm='l2' alone, not {group['norm']!r}"


def wants_fused(device: torch.device, dtype: torch.dtype, group: Mapping[str, Any]) -> bool:
    """Returns whether a fused step is to be used: as the group says; by default, on a CPU that has one.

    foreach=False asks for the plain path, as in torch.optim. So does capturable on a CPU: a fused step reads the
    learning rate on the host.
    """
    if group["fused"] is not None:
        return bool(group["fused"])
    free = group["foreach"] is None and not group["capturable"] and device.type == "cpu"
    return free and why_not_fused(device, dtype, group) is None
