"""From the parts of a step to Triton launches: parts that compile alike share one."""

from collections.abc import Callable, Mapping, Sequence
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor

from anybatch.optim.kernels.triton import FusedTensors, Kind, Segment
from anybatch.optim.parts import Part, computed_in


class Rule(NamedTuple):
    """An algorithm as the launches need it."""

    kind: Callable[..., Kind]
    settings: Callable[[Mapping[str, Any]], list[float]]
    states: tuple[str, ...]  # names of one or two states like the parameter


class Launch(NamedTuple):
    """Parts whose tensors are stepped together."""

    parts: list[Part]
    tensors: FusedTensors

    def by_part(self, columns: Tensor) -> list[Tensor]:
        """Splits what has a column a layer."""
        return list(columns.split([len(part.params) * part.blocks for part in self.parts], dim=-1))


class Launches:
    """The launches of one optimizer. Keeps their tables from step to step, and for good those in a CUDA graph."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._tables: dict[tuple[torch.device, Kind], tuple[list[Any], FusedTensors, list[FusedTensors]]] = {}
        self._captured: list[FusedTensors] = []

    def of(self, parts: Sequence[Part], states: Mapping[Tensor, Any]) -> list[Launch]:
        """The launches of a step, ready: their tables name the tensors as they are now.

        Args:
            parts: with `weights`, their parameters, gradients and states contiguous, of one dtype each.
            states: of the parameters, those of the rule there.
        """
        together: dict[tuple[torch.device, Kind], list[Part]] = {}
        for part in parts:
            together.setdefault((part.device, self._kind(part)), []).append(part)
        return [Launch(several, self._refer(key, several, states)) for key, several in together.items()]

    def _kind(self, part: Part) -> Kind:
        lr = part.group["lr"]
        there = isinstance(lr, Tensor) and lr.device == part.device
        narrow = computed_in(part.dtype) != part.dtype
        return self._rule.kind(
            part.group,
            x=computed_in(part.dtype) if narrow and part.group["master_weights"] else part.dtype,
            parameter=part.dtype,
            gradient=part.grads[0].dtype,
            rate=lr.dtype if there else None,
        )

    def _refer(self, key: tuple[torch.device, Kind], parts: list[Part], states: Mapping[Tensor, Any]) -> FusedTensors:
        structure = [p for part in parts for p in (part.blocks, *part.params)]
        known = self._tables.get(key)
        if known is None or len(known[0]) != len(structure) or not all(map(is_, known[0], structure)):
            known = self._tables[key] = structure, _tables(*key, parts), []
        _, tables, spare = known
        if key[0].type == "cuda" and any(part.group["capturable"] for part in parts):
            # A graph reads its tables at every replay, whatever steps are taken outside of it. They cannot be made while
            # it is captured: that takes pinned memory.
            if torch.cuda.is_current_stream_capturing():
                tables = spare.pop() if spare else _tables(*key, parts)
                self._captured.append(tables)
            elif not spare:
                spare.append(_tables(*key, parts))
        tables.refer(self._addresses(parts, states), [self._rule.settings(part.group) for part in parts])
        return tables

    def _addresses(self, parts: list[Part], states: Mapping[Tensor, Any]) -> list[list[int]]:
        own = [states[p] for part in parts for p in part.params]
        names = [*self._rule.states, None][:2]
        columns = [
            [t.data_ptr() for part in parts for t in (part.weights if _has_masters(part) else part.params)],
            [t.data_ptr() for part in parts for t in part.params],
            [t.data_ptr() for part in parts for t in part.grads],
            *([state[name].data_ptr() if name else 0 for state in own] for name in names),
            [state["step"].data_ptr() if "step" in state else 0 for state in own],
        ]
        rates = [part.group["lr"] for part in parts for _ in part.params]
        device = parts[0].device
        return [*columns, [lr.data_ptr() if isinstance(lr, Tensor) and lr.device == device else 0 for lr in rates]]


def _has_masters(part: Part) -> bool:
    return bool(part.group["master_weights"]) and computed_in(part.dtype) != part.dtype


def _tables(device: torch.device, kind: Kind, parts: list[Part]) -> FusedTensors:
    segments, groups, layer = [], [], 0
    for group, part in enumerate(parts):
        for p in part.params:
            numel = p.numel() // part.blocks
            segments += [Segment(len(groups), b * numel, numel, layer + b) for b in range(part.blocks)]
            layer += part.blocks
            groups.append(group)
    return FusedTensors(device, kind, segments, layer, groups)
