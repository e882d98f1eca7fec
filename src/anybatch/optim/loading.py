"""State from elsewhere: a file, another library, a model that has since been moved."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from anybatch.optim.parts import computed_in
from anybatch.optim.sharding import local


def laid_out_like(p: Tensor, state: Tensor) -> Tensor:
    """`state` if it lies in memory as a new state of `p` would, else a copy that does.

    Files keep no memory format (safetensors makes every tensor contiguous), and `model.to(memory_format=...)` changes
    that of the parameters alone.
    """
    x, s = local(p), local(state)
    if s.stride() == x.stride() or s.stride() == torch.empty_like(x, device="meta").stride():
        return state
    return torch.empty_like(p, dtype=state.dtype).copy_(state)


@contextmanager
def exact_state(optimizer: Optimizer, check: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """While a state dict is loaded: PyTorch casts state to the parameter's dtype, which would round fp32 to bf16.

    `check` raises for a state dict that cannot be used, as the user's own hooks have left it.
    """
    given: dict[str, Any] = {}

    def remember(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        check(state_dict)
        given.update(state_dict, state={index: _as_kept(state) for index, state in state_dict["state"].items()})
        return given

    def restore(_: Optimizer) -> None:
        saved = [index for group in given["param_groups"] for index in group["params"]]
        params = [p for group in optimizer.param_groups for p in group["params"]]
        for index, p in zip(saved, params, strict=True):
            for name, value in given["state"].get(index, {}).items():
                if name != "step" and isinstance(value, Tensor):
                    loaded = optimizer.state[p]
                    if p.dtype != computed_in(p.dtype):
                        loaded[name] = value.to(p.device, computed_in(p.dtype))
                    loaded[name] = laid_out_like(p, loaded[name])

    hooks = [
        optimizer.register_load_state_dict_pre_hook(remember),
        optimizer.register_load_state_dict_post_hook(restore, prepend=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _as_kept(state: Any) -> Any:
    """A checked state without the names that have None; its step, which others keep as a number, as an fp32 tensor."""
    if not isinstance(state, Mapping):  # of no parameter
        return state
    kept = {name: value for name, value in state.items() if value is not None}
    step = kept.get("step")
    if isinstance(step, Tensor):
        kept["step"] = step.to(torch.float32, copy=True)  # parameters that shared one would count it on together
    elif step is not None:
        kept["step"] = torch.tensor(float(step), device="cpu")
    return kept
