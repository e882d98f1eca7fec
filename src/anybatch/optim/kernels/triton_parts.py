"""From the parts of a step to Triton launches and back; parts that compile alike share one."""

import os
import shutil
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from anybatch.optim.kernels.triton import (
    FusedTensors,
    Kind,
    Layer,
    lamb_kind,
    lamb_settings,
    lars_kind,
    lars_settings,
)
from anybatch.optim.kernels.triton_lamb import lamb_apply
from anybatch.optim.parts import Part, computed_in
from anybatch.optim.sharding import add_over_mesh, cut_of, local

State = dict[str, Tensor]

_CAPABILITY = (7, 5)


class Rule(NamedTuple):
    """An algorithm as the launches need it."""

    kind: Callable[..., Kind]
    settings: Callable[[Mapping[str, Any], float], list[float]]
    states: tuple[str, ...]  # names of one or two states like the parameter


ALGORITHMS = {
    "LAMB": Rule(lamb_kind, lamb_settings, ("exp_avg", "exp_avg_sq")),
    "LARS": Rule(lars_kind, lars_settings, ("momentum_buffer",)),
}


def unavailable() -> str | None:
    """Why there are no fused kernels on this machine's GPU."""
    if isinstance(lamb_apply, InterpretedFunction):
        return None
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton finds no C compiler, which it starts its kernels with: install gcc, or set CC"
    if torch.version.hip is None and torch.cuda.is_available():
        found = torch.cuda.get_device_capability()
        if found < _CAPABILITY:
            return "Triton needs compute capability {}.{}, {} has {}.{}".format(
                *_CAPABILITY, torch.cuda.get_device_name(), *found
            )
    return None


def why_not(dtype: torch.dtype, group: Mapping[str, Any]) -> str | None:
    """Why parameters of this dtype cannot be stepped under the group's settings."""
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"on a GPU the kernels step fp32, bf16 and fp16 parameters, not {dtype}"
    if group["norm"] != "l2":
        return f"the kernels have norm='l2' alone, not {group['norm']!r}"
    return None


@dataclass
class _Launch:
    parts: list[Part]
    kind: Kind
    tensors: FusedTensors
    copies: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # (a tensor, the one that stands for it)
    gradients: list[Tensor] = field(default_factory=list)

    @property
    def cut(self) -> frozenset[int]:
        """Dimensions of the mesh along which some layer is sharded."""
        return cut_of(layout for part in self.parts for layout in part.layouts)


class Launches:
    """The launches of one optimizer. Keeps their tables from step to step, and for good those in a CUDA graph."""

    def __init__(self, algorithm: str) -> None:
        self._rule = ALGORITHMS[algorithm]
        self._known: dict[Any, _Known] = {}
        self._captured: list[FusedTensors] = []
        self._looked: tuple[weakref.ref[Part], FusedTensors] | None = None

    def look(
        self, parts: Sequence[Part], states: Mapping[Tensor, State], max_grad_norm: float | None
    ) -> tuple[Tensor, Tensor] | None:
        """As `FusedTensors.look`, over all parts; None where that takes more than one launch, or ranks share layers."""
        launches = self._launches(parts)
        if len(launches) != 1 or launches[0].cut:
            return None
        self._refer(launches[0], [states.get(p, {}) for part in parts for p in part.params])
        self._looked = weakref.ref(parts[0]), launches[0].tensors
        return launches[0].tensors.look(max_grad_norm)

    def step(self, parts: Sequence[Part], clip: Tensor | None) -> list[Tensor | None]:
        """Steps the parts; of each, |x|, |u|, the ratio and whether a bound acted, shape (4, layers).

        Args:
            parts: of one device, with all the states that the rule and their groups ask for.
            clip: what the gradients are multiplied by.
        """
        launches = self._launches(parts)
        self._looked = None
        factor = None if clip is None else clip.to(parts[0].device, torch.float64)
        for launch in launches:
            self._refer(launch, [state for part in launch.parts for state in part.states])
            launch.tensors.measure(factor)
        totals = _over_meshes(launches)
        found: dict[int, Tensor] = {}
        for i, launch in enumerate(launches):
            columns = launch.tensors.apply(factor, totals.get(i))
            for tensor, copy in launch.copies:
                tensor.copy_(copy)
            each = torch.split(columns, [len(part.params) * part.blocks for part in launch.parts], dim=1)
            found.update({id(part): own for part, own in zip(launch.parts, each, strict=True)})
        torch.autograd.graph.increment_version([x for part in parts for x in part.locals])
        return [found[id(part)] for part in parts]

    def _launches(self, parts: Sequence[Part]) -> list[_Launch]:
        together: dict[Any, list[Part]] = {}
        for part in parts:
            together.setdefault((part.mesh, self._kind(part)), []).append(part)
        return [_Launch(several, key[1], self._tables(key, several)) for key, several in together.items()]

    def _kind(self, part: Part) -> Kind:
        lr = part.group["lr"]
        gradients = {g.dtype for g in part.grads}
        return self._rule.kind(
            part.group,
            x=computed_in(part.dtype) if part.group["master_weights"] else part.dtype,
            parameter=part.dtype,
            gradient=gradients.pop() if len(gradients) == 1 else torch.float32,
            rate=lr.dtype if isinstance(lr, Tensor) and lr.device == part.device else None,
        )

    def _tables(self, key: Any, parts: list[Part]) -> FusedTensors:
        if self._looked is not None and self._looked[0]() is parts[0]:
            return self._looked[1]  # for this very step
        structure = [each for part in parts for each in (part.blocks, *part.params)]
        shapes = [x.shape for part in parts for x in part.locals]
        known = self._known.get(key)
        if known is None or not known.fits(structure, shapes):
            known = self._known[key] = _Known(structure, shapes, _tables(key[1], parts), [])
        if parts[0].device.type == "cuda" and any(part.group["capturable"] for part in parts):
            # A graph reads its tables at every replay, whatever steps are taken outside of it. They are made
            # beforehand, since that takes pinned memory.
            if torch.cuda.is_current_stream_capturing():
                self._captured.append(known.spare.pop() if known.spare else _tables(key[1], parts))
                return self._captured[-1]
            if not known.spare:
                known.spare.append(_tables(key[1], parts))
        return known.tables

    def _refer(self, launch: _Launch, states: Sequence[State]) -> None:
        launch.copies, launch.gradients = [], []
        rest = iter(states)
        several = [self._addresses(part, launch, list(islice(rest, len(part.params)))) for part in launch.parts]
        columns = [list(chain.from_iterable(column)) for column in zip(*several, strict=True)]
        # A rate on the device is read there.
        read = launch.kind.rate is not None
        settings = [self._rule.settings(part.group, 0.0 if read else float(part.group["lr"])) for part in launch.parts]
        launch.tensors.refer(columns, settings)

    def _addresses(self, part: Part, launch: _Launch, states: Sequence[State]) -> list[list[int]]:
        """Of a part's tensors, as `FusedTensors.refer` wants them; what lies otherwise in memory is copied.

        By columns, whose loops are C's: this is what the host does of a step while the GPU waits.
        """
        none = [0] * len(states)
        grads = [g.to(launch.kind.gradient) for g in part.grads]
        if not all(states):  # before the first step: there is something to look at, but nothing to step
            launch.gradients += map(Tensor.contiguous, grads)
            return [none, none, _pointers(launch.gradients[-len(grads) :]), none, none, none, none]
        here = (lambda t: t) if part.mesh is None else local
        masters = launch.kind.x != part.dtype
        names = [*self._rule.states, *(["master"] if masters else [])]
        written = [part.locals, *([here(state[name]) for state in states] for name in names)]
        if not all(map(Tensor.is_contiguous, chain(grads, *written))):
            dense = [self._dense(part, launch, *row) for row in zip(grads, *written, strict=True)]
            grads, *written = map(list, zip(*dense, strict=True))
        launch.gradients += grads
        parameters, first, *others = map(_pointers, written)
        second = others[0] if len(self._rule.states) > 1 else none
        steps = none
        if "step" in states[0]:
            for state in states:
                if state["step"].device != part.device:
                    state["step"] = state["step"].to(part.device)
            steps = _pointers([here(state["step"]) for state in states])
        rates = [part.group["lr"].data_ptr()] * len(states) if launch.kind.rate is not None else none
        return [others[-1] if masters else parameters, parameters, _pointers(grads), first, second, steps, rates]

    def _dense(self, part: Part, launch: _Launch, *tensors: Tensor) -> list[Tensor]:
        """A gradient and what is written beside it, one in memory as the other; what was copied is copied back."""
        if all(map(Tensor.is_contiguous, tensors)) or (part.blocks == 1 and _alike(*tensors)):
            return list(tensors)
        copies = [t.contiguous() for t in tensors]
        launch.copies += [(t, copy) for t, copy in zip(tensors[1:], copies[1:], strict=True) if copy is not t]
        return copies


def _pointers(tensors: Sequence[Tensor]) -> list[int]:
    return list(map(Tensor.data_ptr, tensors))


class _Known(NamedTuple):
    """What is remembered of a launch: whose tables these are."""

    structure: list[Any]
    shapes: list[torch.Size]
    tables: FusedTensors
    spare: list[FusedTensors]

    def fits(self, structure: list[Any], shapes: list[torch.Size]) -> bool:
        """Returns whether the launch was prepared for these objects, in these shapes."""
        return (
            len(structure) == len(self.structure) and all(map(is_, structure, self.structure)) and shapes == self.shapes
        )


def _alike(*tensors: Tensor) -> bool:
    """Returns whether the tensors fill their memory without gaps, all in the same order."""
    expected = 1
    for stride, size in sorted(zip(tensors[0].stride(), tensors[0].shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return all(t.stride() == tensors[0].stride() for t in tensors)


def _tables(kind: Kind, parts: list[Part]) -> FusedTensors:
    layers: list[Layer] = []
    groups: list[int] = []
    for group, part in enumerate(parts):
        for x, layout in zip(part.locals, part.layouts, strict=True):
            where = {block: (begin, numel) for block, begin, numel in layout.segments(x)}
            layers += [Layer(len(groups), *where.get(block, (0, 0))) for block in range(part.blocks)]
            groups.append(group)
    return FusedTensors(parts[0].device, kind, layers, groups)


def _over_meshes(launches: Sequence[_Launch]) -> dict[int, Tensor]:
    """|x|^2 and |u|^2 of the layers of launches whose layers are sharded: one all-reduce a mesh."""
    totals: dict[int, Tensor] = {}
    meshes: dict[Any, list[int]] = {}
    for i, launch in enumerate(launches):
        if launch.cut:
            meshes.setdefault(launch.parts[0].mesh, []).append(i)
    for mesh, indices in meshes.items():
        shares = [launches[i].tensors.totals() for i in indices]
        layouts = [[layout for part in launches[i].parts for layout in part.layouts] for i in indices]
        for i, total in zip(indices, add_over_mesh(shares, layouts, mesh), strict=True):
            totals[i] = total.contiguous()
    return totals
