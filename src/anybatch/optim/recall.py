"""The parts of the last step, used again if only the gradients have changed."""

from collections.abc import Mapping, Sequence
from itertools import repeat
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor

from anybatch.optim.parts import Part

_GRAD, _LAYOUT, _DTYPE = attrgetter("grad"), attrgetter("layout"), attrgetter("dtype")
# Keys that decide how a group is cut into parts, and which state its parameters have.
_KEYS = ("blocks", "master_weights", "fused", "foreach", "norm", "capturable")


class Recall:
    """Keeps the parts of a step: at 10,000 tensors, sorting them into parts takes longer than stepping them.

    Only for parts that a fused CPU kernel has stepped as a whole: the kernel finds every tensor in memory again, and
    refuses a tensor with another size, dtype or device.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], states: Mapping[Tensor, Any], parts: list[Part]) -> None:
        self.parts = parts
        self.layers = [name for part in parts for name in part.layer_names()]
        self._groups = [(group, list(group["params"]), group.get("param_names"), _settings(group)) for group in groups]
        self._states = list(states.values())
        self._dicts = [state for state in self._states if isinstance(state, dict)]  # others keep anything there
        self._sizes = list(map(len, self._dicts))
        self._params = [p for group in groups for p in group["params"]]
        self._absent = [p.grad is None for p in self._params]
        where = {id(p): i for i, p in enumerate(self._params)}
        self._indices = [[where[id(p)] for p in part.params] for part in parts]

    def again(self, groups: Sequence[dict[str, Any]], states: Mapping[Tensor, Any]) -> list[Part] | None:
        """Returns the parts with the present gradients; None if anything else has changed."""
        if len(groups) != len(self._groups) or not _same(states.values(), self._states):
            return None
        if list(map(len, self._dicts)) != self._sizes:
            return None
        for group, (known, params, names, settings) in zip(groups, self._groups, strict=True):
            if group is not known or not _same(group["params"], params):
                return None
            if group.get("param_names") is not names or _settings(group) != settings:
                return None
        grads = list(map(_GRAD, self._params))
        if list(map(is_, grads, repeat(None))) != self._absent:
            return None
        for part, indices in zip(self.parts, self._indices, strict=True):
            part.grads = list(map(grads.__getitem__, indices))
            if set(map(_LAYOUT, part.grads)) != {torch.strided} or set(map(_DTYPE, part.grads)) != {part.dtype}:
                return None
        return self.parts

    def forget(self) -> None:
        """Releases the gradients, which are not ours."""
        for part in self.parts:
            part.grads = []


def _settings(group: Mapping[str, Any]) -> list[Any]:
    return [group[key] for key in _KEYS]


def _same(some: Any, others: Sequence[Any]) -> bool:
    return len(some) == len(others) and all(map(is_, some, others))
