"""Checks of the groups of a layer-wise optimizer. Errors name the argument, its value and its bound."""

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from anybatch.optim.kernels import why_not_fused
from anybatch.optim.norms import ORDER, has_numbers
from anybatch.optim.sharding import is_sharded, layout_of, layout_words, local


def is_number(value: object) -> bool:
    """Returns whether this is a real number, also in a 0-d tensor."""
    return isinstance(value, Real) or (isinstance(value, Tensor) and value.ndim == 0 and not value.is_complex())


def at_least(group: Mapping[str, Any], name: str, bound: float) -> None:
    """Raises ValueError if a value of the group is no number, below `bound`, or not finite."""
    value = group[name]
    if not is_number(value) or (_known(value) and not bound <= value < math.inf):
        raise ValueError(f"{name}={_words(value)} is not at least {bound:g} and finite")


def fraction(name: str, value: float) -> None:
    """Raises ValueError if a decay rate is outside [0, 1)."""
    if not is_number(value) or (_known(value) and not 0 <= value < 1):
        raise ValueError(f"{name}={_words(value)} is not in [0, 1)")


def pair(group: Mapping[str, Any], name: str) -> tuple[Any, Any]:
    """Returns the two values; ValueError if there are not two."""
    value = group[name]
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise ValueError(f"{name}={value!r} is not a pair")
    return value[0], value[1]


def one_of(name: str, value: object, choices: Sequence[object]) -> None:
    """Raises ValueError if the value is not among the choices."""
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, choices))}")


def _known(value: object) -> bool:
    return not isinstance(value, Tensor) or has_numbers(value)


def _words(value: object) -> str:
    return repr(value.item() if isinstance(value, Tensor) and value.ndim == 0 else value)


def clip_bound(max_grad_norm: Any) -> float | None:
    """Returns the bound of the gradient norm for a step: None if no norm exceeds it.

    Raises:
        ValueError: it is not above 0.
    """
    if max_grad_norm is None:
        return None
    if not (is_number(max_grad_norm) and max_grad_norm > 0):
        raise ValueError(f"max_grad_norm={max_grad_norm!r} is not above 0; None turns clipping off")
    return None if max_grad_norm == math.inf else max_grad_norm


def check_strategy(group: Mapping[str, Any]) -> None:
    """Checks the keys that every layer-wise optimizer has."""
    lr = group["lr"]
    if isinstance(lr, Tensor) and lr.ndim:
        raise ValueError(f"lr of shape {tuple(lr.shape)} is not a number or a 0-d tensor")
    at_least(group, "lr", 0)
    one_of("norm", group["norm"], list(ORDER))
    for name in ("phi", "trust_clip"):
        lower, upper = pair(group, name)
        if not (is_number(lower) and is_number(upper) and 0 <= lower <= upper and lower < math.inf):
            raise ValueError(f"{name}={group[name]!r} is not a pair with 0 <= lower <= upper, lower finite")
    blocks = group["blocks"]
    if not isinstance(blocks, int) or isinstance(blocks, bool) or blocks < 1:
        raise ValueError(f"blocks={blocks!r} is not an int of at least 1")


def check_speed(group: Mapping[str, Any]) -> None:
    """Checks the keys that choose how the same step is computed."""
    if group["foreach"] and group["fused"]:
        raise ValueError("foreach=True and fused=True exclude each other")
    if group["fused"]:
        for p in group["params"]:
            why = why_not_fused(p.device, p.dtype, group)
            if why is not None:
                raise ValueError(
                    f"fused=True: {why}; fused=None, in a saved group too, takes the fastest path there is"
                )


# Attributes that libraries put on parameters that they have flattened or cut up.
_FLATTENERS = {
    "FSDP1 (FullyShardedDataParallel)": ("_is_flat_param", "_fsdp_flattened"),
    "DeepSpeed's ZeRO, stage 3": ("ds_id", "ds_tensor"),
    "fairscale's FSDP (FullyShardedDataParallel)": ("_param_numels", "_is_sharded"),
}
_LOST = (
    "whose flat parameters hide where a layer begins: shard the model with torch.distributed.fsdp.fully_shard, "
    "or its optimizer's state with torch.distributed.optim.ZeroRedundancyOptimizer"
)


def check_replaced(index: int, gone: Sequence[torch.Size], come: Sequence[Tensor]) -> None:
    """Raises TypeError if one flat tensor, or a part of one, has replaced the parameters of a group.

    ZeRO does so without telling the optimizer. The user may replace a parameter by one of another shape, and may add
    or remove parameters.
    """
    like_for_like = len(gone) == len(come) and all(len(shape) == 1 for shape in gone)
    for p in come if gone else []:
        if p.ndim == 1 and p.shape not in gone and not (like_for_like and isinstance(p, torch.nn.Parameter)):
            raise TypeError(
                f"group {index} holds a flat tensor of {p.numel()} elements in place of its parameters, as under "
                f"DeepSpeed's ZeRO (stages 1 to 3, its BF16_Optimizer) and others, {_LOST}"
            )


def check_parameter(name: str, p: Tensor, blocks: int) -> None:
    """Raises TypeError if this process cannot know the tensor's norm, ValueError if `blocks` do not divide it."""
    for library, marks in _FLATTENERS.items():
        if any(getattr(p, mark, None) is not None and getattr(p, mark) is not False for mark in marks):
            raise TypeError(f"{name} belongs to {library}, {_LOST}")
    if not p.is_floating_point():
        raise TypeError(f"{name} has dtype {p.dtype}: only real floating-point parameters can be optimized")
    if p.numel() and any(size > 1 and stride == 0 for size, stride in zip(p.shape, p.stride(), strict=True)):
        raise ValueError(f"{name} is expanded: many of its elements are one in memory; use a clone of it")
    if blocks > 1 and (p.ndim == 0 or p.shape[0] % blocks):
        raise ValueError(f"blocks={blocks} does not divide dimension 0 of {name}, whose shape is {tuple(p.shape)}")
    try:
        layout_of(p, blocks)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None


def check_state(name: str, p: Tensor, state: Mapping[str, Any], required: Sequence[str]) -> None:
    """Raises ValueError if a state does not fit this parameter: a missing name, another shape or another layout.

    None counts as no state, as in torch.optim.SGD. What others keep beside the optimizer's states is not checked.
    """
    present = {key: value for key, value in state.items() if value is not None}
    missing = [key for key in required if key not in present]
    if missing:
        has = ", ".join(map(str, present)) or "nothing"
        raise ValueError(f"the state of {name} lacks {', '.join(missing)}; it has {has}")
    for key in (key for key in (*required, "master") if key in present):
        value = present[key]
        if key == "step":
            _check_step(name, value)
            continue
        if not isinstance(value, Tensor):
            raise ValueError(f"{key} of {name} is {value!r}, not a tensor")
        if value.shape != p.shape:
            raise ValueError(f"{key} of {name} has shape {tuple(value.shape)}, the parameter {tuple(p.shape)}")
        if layout_words(value) != layout_words(p):
            raise ValueError(
                f"{key} of {name} is {layout_words(value)}, the parameter {layout_words(p)}: move states between "
                "layouts with the functions of torch.distributed.checkpoint.state_dict"
            )


def _check_step(name: str, step: object) -> None:
    if isinstance(step, Tensor):
        if step.ndim:
            raise ValueError(f"step of {name} has shape {tuple(step.shape)}, not ()")
    elif not isinstance(step, Real):
        raise ValueError(f"step of {name} is {step!r}, not a number or a 0-d tensor")


def local_gradient(name: str, p: Tensor) -> Tensor:
    """Returns this rank's part of the gradient, cut like the parameter; TypeError if it is sparse or not real."""
    grad = p.grad
    assert grad is not None
    if is_sharded(p):
        if not is_sharded(grad):
            raise TypeError(f"the gradient of {name} is not a DTensor, but the parameter is")
        if grad.placements != p.placements:  # type: ignore[attr-defined]
            grad = grad.redistribute(p.device_mesh, p.placements)  # type: ignore[attr-defined]
        grad = local(grad)
    elif is_sharded(grad):
        raise TypeError(f"the gradient of {name} is a DTensor, but the parameter is not")
    if grad.device != p.device:
        raise TypeError(f"the gradient of {name} is on {grad.device}, but the parameter is on {p.device}")
    if grad.layout is not torch.strided:
        raise TypeError(f"the gradient of {name} is sparse ({grad.layout}): only dense gradients are supported")
    if not grad.is_floating_point():
        raise TypeError(f"the gradient of {name} has dtype {grad.dtype}: only real floating-point ones are supported")
    return grad
