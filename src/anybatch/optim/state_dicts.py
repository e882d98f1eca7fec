"""State from elsewhere: from a file, from another library, or for a model that has since been moved."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from anybatch.optim.parts import computed_in
from anybatch.optim.sharding import local

StateDict = dict[str, Any]


def laid_out_like(p: Tensor, state: Tensor) -> Tensor:
    """Returns `state` if its memory layout is that of a new state of `p`, otherwise a copy with this layout.

    Files keep no memory format (safetensors makes every tensor contiguous), and `model.to(memory_format=...)` changes
    only the parameters'.
    """
    x, s = local(p), local(state)
    if s.stride() == x.stride() or s.stride() == torch.empty_like(x, device="meta").stride():
        return state
    return torch.empty_like(p, dtype=state.dtype).copy_(state)


def fitted(optimizer: Optimizer, state_dict: StateDict) -> StateDict:
    """Returns the state dict with every state at its parameter's place, and with the settings that groups lack.

    PyTorch matches by position only, and forgets a group's setting if the saved group does not have it. Here, named
    parameters are found by name. Settings that were not saved keep the optimizer's values, and so do names.

    Raises:
        ValueError: a name is in another group, or at another place among names that are not all the same.
    """
    own, saved = optimizer.param_groups, state_dict["param_groups"]
    if [len(group["params"]) for group in own] != [len(group["params"]) for group in saved]:
        return state_dict  # PyTorch refuses it
    places = {name: (i, k) for i, group in enumerate(own) for k, name in enumerate(group.get("param_names", ()))}
    groups = []
    for index, (mine, theirs) in enumerate(zip(own, saved, strict=True)):
        settings = {key: value for key, value in mine.items() if key != "params"}
        group = {**settings, **theirs, "params": _by_name(index, mine, theirs, places)}
        groups.append({**group, "param_names": mine["param_names"]} if "param_names" in mine else group)
    return {**state_dict, "param_groups": groups}


def _by_name(
    index: int, mine: Mapping[str, Any], theirs: Mapping[str, Any], places: Mapping[str, tuple[int, int]]
) -> list[Any]:
    """Returns the keys of a saved group in the order of the optimizer's."""
    names, keys = mine.get("param_names", []), list(theirs["params"])
    # torch.distributed.checkpoint's functions use names as keys, already in the optimizer's order.
    known: Sequence[Any] = keys if keys and isinstance(keys[0], str) else theirs.get("param_names", [])
    if len(known) == len(keys) == len(set(known)) and set(known) == set(names):
        key_of = dict(zip(known, keys, strict=True))
        return [key_of[name] for name in names]
    for k, name in enumerate(known):
        i, at = places.get(name, (index, k))
        if (i, at) != (index, k):
            raise ValueError(
                f"{name} is parameter {k} of group {index} in the saved state, and parameter {at} of group {i} here: "
                "make the groups as they were, each of the same parameters; nothing was loaded"
            )
    return keys


@contextmanager
def exact_state(optimizer: Optimizer, own: Sequence[str], check: Callable[[StateDict], None]) -> Iterator[None]:
    """Keeps state exact while a state dict is loaded: PyTorch casts it to the parameter's dtype, fp32 to bf16.

    Args:
        own: names of the optimizer's states. What others keep beside them is loaded unchanged.
        check: raises for a state dict that cannot be used; it sees the state dict after the user's hooks.
    """
    given: StateDict = {}
    foreign: dict[Any, dict[Any, Any]] = {}

    def remember(_: Optimizer, state_dict: StateDict) -> StateDict:
        state_dict = fitted(optimizer, state_dict)
        check(state_dict)
        keys = {key for group in state_dict["param_groups"] for key in group["params"]}
        state = dict(state_dict["state"])
        for key in keys & state.keys():
            foreign[key] = {name: value for name, value in state[key].items() if name not in own}
            state[key] = _as_kept({name: value for name, value in state[key].items() if name in own})
        given.update(state_dict, state=state)
        return given

    def restore(_: Optimizer) -> None:
        saved = [key for group in given["param_groups"] for key in group["params"]]
        params = [p for group in optimizer.param_groups for p in group["params"]]
        for key, p in zip(saved, params, strict=True):
            if key not in given["state"]:
                continue
            loaded = optimizer.state[p]
            for name, value in given["state"][key].items():
                if name != "step":
                    if p.dtype != computed_in(p.dtype):
                        loaded[name] = value.to(p.device, computed_in(p.dtype))
                    loaded[name] = laid_out_like(p, loaded[name])
            loaded.update(tree_map_only(Tensor, partial(Tensor.to, device=p.device), foreign[key]))

    hooks = [
        optimizer.register_load_state_dict_pre_hook(remember),
        optimizer.register_load_state_dict_post_hook(restore, prepend=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _as_kept(state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a checked state without names whose value is None; a step kept as a number becomes an fp32 tensor."""
    kept = {name: value for name, value in state.items() if value is not None}
    step = kept.get("step")
    if isinstance(step, Tensor):
        kept["step"] = step.to(torch.float32, copy=True)  # parameters that shared one would count it on together
    elif step is not None:
        kept["step"] = torch.tensor(float(step), dtype=torch.float32, device="cpu")
    return kept
