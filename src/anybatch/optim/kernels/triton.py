"""LAMB and LARS fused in Triton: two launches a step for all tensors, three with a look at the gradients first.

Parts that compile alike share their launches. The programs are in `triton_programs.py`; here are the tables that tell
them which tensors there are, and the launches. Nothing waits for the device.
"""

import math
import os
import shutil
import sys
import weakref
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from operator import is_
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from anybatch.optim.kernels import rule
from anybatch.optim.kernels import triton_programs as programs
from anybatch.optim.parts import Part, computed_in, places
from anybatch.optim.sharding import add_over_mesh, cut_of, local

# Elements that a program works through, and at a time. Every program of phase 2 adds up its layer anew, from two
# numbers a chunk: with much shorter chunks that would be a share of the traffic for BERT's embedding.
CHUNK = 32_768
BLOCK = 1_024

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TAKES = "on a GPU the kernels step fp32, bf16 and fp16 parameters"
_OF_TRITON: dict[torch.dtype | None, Any] = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}
_CAPABILITY = (7, 5)


def unavailable() -> str | None:
    """Why there are no fused kernels on this machine's GPU."""
    if isinstance(programs.apply, InterpretedFunction):
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


class Launches:
    """The launches of one optimizer. Keeps their tables from step to step, and for good those in a CUDA graph.

    Args:
        states: names of the optimizer's states: perhaps step, and one or two like the parameter.
    """

    def __init__(self, states: Sequence[str]) -> None:
        self._states = states
        self._known: dict[Any, _Tables] = {}
        self._spare: dict[Any, _Tables] = {}
        self._captured: list[_Tables] = []
        self._looked: tuple[weakref.ref[Part], _Tables] | None = None

    def look(
        self, parts: Sequence[Part], states: Mapping[Tensor, dict[str, Tensor]], max_grad_norm: float | None
    ) -> tuple[Tensor, Tensor] | None:
        """As `_Tables.look`, over all parts; None where that takes more than one launch, or ranks share layers."""
        launches = self._launches(parts)
        if len(launches) != 1 or launches[0][1].cut:
            return None
        for part in parts:
            part.states = [states.get(p, {}) for p in part.params]
        mine, tables = launches[0]
        tables.refer(mine)
        self._looked = weakref.ref(parts[0]), tables
        return tables.look(max_grad_norm)

    def step(self, parts: Sequence[Part], clip: Tensor | None) -> list[Tensor | None]:
        """Steps the parts; of each, |x|, |u|, the ratio and whether a bound acted, shape (4, layers).

        Args:
            parts: of one device, with all the states that the optimizer and their groups ask for.
            clip: what the gradients are multiplied by.
        """
        launches = self._launches(parts)
        self._looked = None
        factor = None if clip is None else clip.to(parts[0].device, torch.float64)
        for mine, tables in launches:
            tables.refer(mine)
            tables.measure(factor)
        totals: dict[int, Tensor] = {}  # of launches whose layers are sharded: one all-reduce a mesh
        for mesh in dict.fromkeys(mine[0].mesh for mine, tables in launches if tables.cut):
            cut = [tables for mine, tables in launches if tables.cut and mine[0].mesh == mesh]
            shares = add_over_mesh([tables.totals() for tables in cut], [tables.layouts for tables in cut], mesh)
            totals.update((id(tables), share.contiguous()) for tables, share in zip(cut, shares, strict=True))
        found: dict[int, Tensor] = {}
        for mine, tables in launches:
            columns = tables.apply(factor, totals.get(id(tables)))
            each = torch.split(columns, [len(part.params) * part.blocks for part in mine], dim=1)
            found.update(zip(map(id, mine), each, strict=True))
        torch.autograd.graph.increment_version([x for part in parts for x in part.locals])
        return [found[id(part)] for part in parts]

    def _launches(self, parts: Sequence[Part]) -> list[tuple[list[Part], "_Tables"]]:
        together: dict[Any, list[Part]] = {}
        for part in parts:
            together.setdefault((part.mesh, _kind(self._states, part)), []).append(part)
        return [(several, self._tables(key, several)) for key, several in together.items()]

    def _tables(self, key: Any, parts: list[Part]) -> "_Tables":
        if self._looked is not None and self._looked[0]() is parts[0]:
            return self._looked[1]  # for this very step
        known = self._known.get(key)
        if known is None or not known.fits(parts):
            known = self._known[key] = _Tables(self._states, key[1], parts)
            self._spare.pop(key, None)
        if parts[0].device.type == "cuda" and any(part.group["capturable"] for part in parts):
            # A graph reads its tables at every replay, whatever steps are taken outside of it. They are made
            # beforehand, since that takes pinned memory.
            if torch.cuda.is_current_stream_capturing():
                made = self._spare.pop(key) if key in self._spare else _Tables(self._states, key[1], parts)
                self._captured.append(made)
                return made
            if key not in self._spare:
                self._spare[key] = _Tables(self._states, key[1], parts)
        return known


class _Kind(NamedTuple):
    """What one launch is compiled for."""

    kind: int
    nesterov: int
    x: torch.dtype
    parameter: torch.dtype
    gradient: torch.dtype
    rate: torch.dtype | None  # of a learning rate that is a tensor on the device


def _kind(states: Sequence[str], part: Part) -> _Kind:
    lr, own = part.group["lr"], rule(states, part.group)
    gradients = {g.dtype for g in part.grads}
    return _Kind(
        own["kind"],
        int(own["nesterov"]),
        x=computed_in(part.dtype) if part.group["master_weights"] else part.dtype,
        parameter=part.dtype,
        gradient=gradients.pop() if len(gradients) == 1 else torch.float32,
        rate=lr.dtype if isinstance(lr, Tensor) and lr.device == part.device else None,
    )


class _Tables:
    """The tensors of one launch: `refer`, perhaps `look`, `measure`, perhaps `totals`, `apply`.

    The parts are of one device and mesh: CUDA, or the CPU in Triton's interpreter.
    """

    def __init__(self, states: Sequence[str], kind: _Kind, parts: Sequence[Part]) -> None:
        self.device, self.kind, self._states = parts[0].device, kind, states
        self.layouts = [layout for part in parts for layout in part.layouts]
        self.cut = cut_of(self.layouts)  # dimensions of the mesh along which some layer is sharded
        self._parts = _structure(parts)
        self._params = [p for part in parts for p in part.params]
        self._constants: dict[str, Any] = {
            "KIND": kind.kind,
            "NESTEROV": kind.nesterov,
            **{f"{name.upper()}_DTYPE": _OF_TRITON.get(getattr(kind, name)) for name in _Kind._fields[2:]},
        }
        self._group = _integers([i for i, part in enumerate(parts) for _ in part.params])
        layers = places(parts)
        self.tensors, self.layers = len(self.layouts), len(layers)
        self._tensor, self._start, numel = _integers(layers).unbind(1)
        # Without elements, too: someone has to count the step and to record the layer.
        chunks = ((numel + CHUNK - 1) // CHUNK).clamp(min=1)
        layer = torch.repeat_interleave(chunks)
        index = torch.arange(len(layer), dtype=torch.int64, device="cpu") - (chunks.cumsum(0) - chunks)[layer]
        count = (numel[layer] - index * CHUNK).clamp(max=CHUNK)
        self._chunk_rows = torch.stack([layer, index, count, torch.zeros_like(index)], dim=1)
        self._size = len(layer)
        device = self.device
        self._chunks = _Table(device, torch.int32, self._size, programs.CHUNK_COLUMNS.value)
        self._layers = _Table(device, torch.int64, self.layers, programs.LAYER_COLUMNS.value)
        self._settings = _Table(device, torch.float64, len(parts), len(programs.SETTINGS))
        self._limit = _Table(device, torch.float64, 1, 1)
        self._first = _starts(layer, self.layers).to(device)
        self._first_of_tensor = _starts(self._tensor[layer], self.tensors).to(device)
        self._each_layer = torch.arange(self.layers + 1, dtype=torch.int32, device=device)
        self._estimates = torch.empty(self.layers, 4, dtype=torch.float32, device=device)
        self._arrivals = torch.zeros(self.tensors + 1, dtype=torch.int32, device=device)
        self._squares, self._sums, self._verdict, self._totals, self._record = (
            torch.zeros(shape, dtype=torch.float64, device=device)
            for shape in [(2, self._size), (self.tensors,), (3,), (2, self.layers), (4, self.layers)]
        )
        self._addresses: list[list[int]] = []
        self._gradients: list[Tensor] = []
        self._copies: list[tuple[Tensor, Tensor]] = []  # (a tensor, the one that stands for it)

    def fits(self, parts: Sequence[Part]) -> bool:
        """Whether the tables were made for these parameters, in these shapes."""
        params = [p for part in parts for p in part.params]
        return (
            len(params) == len(self._params)
            and all(map(is_, params, self._params))
            and _structure(parts) == self._parts
        )

    def refer(self, parts: Sequence[Part]) -> None:
        """Copies to the device, where it has changed, where everything is and how to step."""
        self._gradients, self._copies = [], []
        # By columns, whose loops are C's: this is what the host does of a step while the GPU waits.
        columns = zip(*(self._addresses_of(part) for part in parts), strict=True)
        addresses = [list(chain.from_iterable(column)) for column in columns]
        # A learning rate on the device is read there.
        read = self.kind.rate is not None
        settings = [_row(rule(self._states, part.group), 0.0 if read else float(part.group["lr"])) for part in parts]
        self._settings.write(torch.tensor(settings, dtype=torch.float64, device="cpu"))
        if addresses == self._addresses:
            return
        self._addresses = addresses
        sizes = [self.kind.x.itemsize, self.kind.parameter.itemsize, self.kind.gradient.itemsize, 4, 4, 0, 0]
        of_layer = _integers(addresses).T[self._tensor] + self._start[:, None] * _integers(sizes)
        leads = torch.ones_like(self._tensor)
        leads[1:] = self._tensor[1:] != self._tensor[:-1]
        own = torch.stack([self._group[self._tensor], self._tensor, leads], dim=1)
        self._layers.write(torch.cat([of_layer, own], dim=1))
        layer, _, count, _ = self._chunk_rows.unbind(1)
        self._chunk_rows[:, 3] = (of_layer[:, :5] % 16 == 0).all(dim=1)[layer] & (count % 8 == 0)
        self._chunks.write(self._chunk_rows)

    def _addresses_of(self, part: Part) -> list[list[int]]:
        """Columns: of x, the parameters, the gradients, both moments, the steps, the rates; 0 for none.

        What the programs cannot take as it lies in memory is copied.
        """
        none, states = [0] * len(part.params), part.states
        grads = [g.to(self.kind.gradient) for g in part.grads]
        if not all(states):  # before the first step: there is something to look at, but nothing to step
            grads = [g.contiguous() for g in grads]
            self._gradients += grads
            return [none, none, _pointers(grads), none, none, none, none]
        here = (lambda t: t) if part.mesh is None else local
        masters, moments = self.kind.x != part.dtype, [name for name in self._states if name != "step"]
        names = [*moments, *(["master"] if masters else [])]
        written = [part.locals, *([here(state[name]) for state in states] for name in names)]
        if not all(map(Tensor.is_contiguous, chain(grads, *written))):
            dense = [self._dense(part, *row) for row in zip(grads, *written, strict=True)]
            grads, *written = map(list, zip(*dense, strict=True))
        self._gradients += grads
        parameters, first, *others = map(_pointers, written)
        second = others[0] if len(moments) > 1 else none
        steps = none
        if "step" in self._states:
            for state in states:
                if state["step"].device != part.device:
                    state["step"] = state["step"].to(part.device)
            steps = _pointers([here(state["step"]) for state in states])
        rates = [part.group["lr"].data_ptr()] * len(states) if self.kind.rate is not None else none
        return [others[-1] if masters else parameters, parameters, _pointers(grads), first, second, steps, rates]

    def _dense(self, part: Part, *tensors: Tensor) -> list[Tensor]:
        """A gradient and what is written beside it, one in memory as the other; what was copied is copied back."""
        if all(map(Tensor.is_contiguous, tensors)) or (part.blocks == 1 and _alike(*tensors)):
            return list(tensors)
        copies = [t.contiguous() for t in tensors]
        self._copies += [(t, copy) for t, copy in zip(tensors[1:], copies[1:], strict=True) if copy is not t]
        return copies

    def look(self, max_grad_norm: float | None) -> tuple[Tensor, Tensor]:
        """|g|^2 of every tensor; and of the finite ones their sum, the number of the others, the factor that clips."""
        limit = sys.float_info.max if max_grad_norm is None else max_grad_norm
        self._limit.write(torch.tensor([[limit]], dtype=torch.float64, device="cpu"))
        self._launch(
            programs.look_at_gradients, self._size, self._chunks.there, self._layers.there, self._first_of_tensor,
            self._squares, self._sums, self._arrivals, self._limit.there, self._verdict, self.tensors,
            CHUNK=CHUNK, GRADIENT_DTYPE=self._constants["GRADIENT_DTYPE"],
        )  # fmt: skip
        self._gradients, self._copies = [], []
        return self._sums, self._verdict

    def measure(self, clip: Tensor | None) -> None:
        """Phase 1, with the gradients times `clip`, a 0-d float64 of this device."""
        self._launch(
            programs.measure, self._size, self._chunks.there, self._layers.there, self._settings.there,
            self._squares, self._size, self._estimates, clip, CLIP=clip is not None, CHUNK=CHUNK, **self._constants,
        )  # fmt: skip

    def totals(self) -> Tensor:
        """|x|^2 and |u|^2 of this rank's part of every layer, shape (2, layers), after `measure`."""
        self._launch(
            programs.add_up_layers, self.layers, self._first, self._squares, self._size, self._totals, self.layers
        )
        return self._totals

    def apply(self, clip: Tensor | None, totals: Tensor | None) -> Tensor:
        """Phase 2, with `totals` where ranks share layers; |x|, |u|, ratio and clamped of the layers, (4, layers)."""
        squares, stride, first = self._squares, self._size, self._first
        if totals is not None:
            squares, stride, first = totals, self.layers, self._each_layer
        self._launch(
            programs.apply, self._size, self._chunks.there, self._layers.there, self._settings.there,
            squares, stride, first, self._estimates, clip, self._record, self.layers, CLIP=clip is not None,
            CHUNK=CHUNK, **self._constants,
        )  # fmt: skip
        for tensor, copy in self._copies:
            tensor.copy_(copy)
        self._gradients, self._copies = [], []
        return self._record

    def _launch(self, program: Any, programs_wanted: int, *arguments: Any, **constants: Any) -> None:
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
            # Contraction is left to nobody: the plain path has none.
            program[(programs_wanted,)](*arguments, **constants, BLOCK=BLOCK, num_warps=4, enable_fp_fusion=False)


class _Table:
    """Values on the device that follow those on the host."""

    def __init__(self, device: torch.device, dtype: torch.dtype, rows: int, columns: int) -> None:
        self.there = torch.empty(rows, columns, dtype=dtype, device=device)
        self._here = self._pinned()
        self._written = False

    def _pinned(self) -> Tensor:
        return torch.empty_like(self.there, device="cpu", pin_memory=self.there.device.type == "cuda")

    def write(self, values: Tensor) -> None:
        if self._written:
            if torch.equal(values.to(self.there.dtype), self._here):
                return
            # The last copy may not have left yet. The first buffer is from before any capture, which cannot make one.
            self._here = self._pinned()
        self._here.copy_(values)
        self.there.copy_(self._here, non_blocking=True)
        self._written = True


def _integers(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.int64, device="cpu")


def _starts(owners: Tensor, number: int) -> Tensor:
    """Where each owner's chunks begin: shape (number + 1,)."""
    return torch.searchsorted(owners, torch.arange(number + 1, dtype=torch.int64, device="cpu")).int()


def _row(own: Mapping[str, Any], lr: float) -> list[float]:
    """A row of the settings."""
    values = {**own, "lr": lr}
    for name in ("beta1", "beta2"):
        values[f"log_{name}"] = math.log(values[name]) if values.get(name) else -math.inf
    return [float(values.get(name, 0.0)) for name in programs.SETTINGS]


def _structure(parts: Sequence[Part]) -> list[Any]:
    return [(part.blocks, [x.shape for x in part.locals]) for part in parts]


def _pointers(tensors: Sequence[Tensor]) -> list[int]:
    return list(map(Tensor.data_ptr, tensors))


def _alike(*tensors: Tensor) -> bool:
    """Returns whether the tensors fill their memory without gaps, all in the same order."""
    expected = 1
    for stride, size in sorted(zip(tensors[0].stride(), tensors[0].shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return all(t.stride() == tensors[0].stride() for t in tensors)
