"""From the parts of a step to one call of the C kernels and back."""

import ctypes
import weakref
from array import array
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, repeat
from operator import is_, itemgetter
from typing import Any

import torch
from torch import Tensor

from anybatch.optim.kernels import rule, why_not_fused
from anybatch.optim.kernels.library import SEEN, Library, address, addresses, library
from anybatch.optim.parts import Part, places
from anybatch.optim.sharding import add_over_mesh, cut_of, local

DTYPES = (torch.float32, torch.bfloat16)
TAKES = "on a CPU the kernels step fp32 and bf16 parameters"
_INT = ctypes.c_int64
_WHOLE, _FIRST, _SECOND = 0, 1, 2  # `enum phase`
_WEIGHT, _GRADIENT, _MASTER, _STEP, _ROLES = 0, 1, 4, 5, 6  # `enum role`; 2 and 3 are the moments
_NO_VIEW, _WRONG_DEVICE, _WRONG_DTYPE, _WRONG_LAYOUT, _WRONG_SIZE, _SHARED = 1, 2, 3, 4, 5, 6  # `enum answer`
_ANSWERS = {
    _NO_VIEW: "cannot be seen through DLPack",
    _WRONG_DEVICE: "is not on the CPU",
    _WRONG_DTYPE: "has another dtype than the kernels take",
    _WRONG_LAYOUT: "is not dense, or not laid out in memory like the parameter",
    _WRONG_SIZE: "has changed its size",
    _SHARED: "shares memory with another parameter",
}


class _Rule(ctypes.Structure):
    """`rule` of cpu.c."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("kind", "nesterov", "bias_correction", "adapt")),
        *((name, ctypes.c_int32) for name in ("joint_norm", "rate_inside")),
        *((name, ctypes.c_double) for name in ("scale", "lr", "beta1", "beta2", "eps", "weight_decay")),
        *((name, ctypes.c_double) for name in ("coefficient", "ratio_eps", "phi_low", "phi_high", "low", "high")),
    )


def unavailable() -> str | None:
    """Why there are no fused kernels on this machine's CPU."""
    found = library()
    return found if isinstance(found, str) else None


class Launches:
    """The fused steps of one optimizer. Keeps the tables of its tensors, one a mesh, from step to step.

    Args:
        states: names of the optimizer's states: perhaps step, and one or two moments.
    """

    def __init__(self, states: Sequence[str]) -> None:
        self._states = states
        self._tables: dict[Any, _Table] = {}

    def step(self, parts: Sequence[Part], clip: Tensor | None) -> list[Tensor | None]:
        """Steps the parts; of each, |x|, |u|, the ratio and whether a bound acted, shape (4, layers).

        None for a part that was left alone, since its tensors lie in memory as the kernels cannot take them.

        Raises:
            RuntimeError: where the group of such a part has fused=True, saying what is wrong; nothing has changed.
        """
        found: dict[int, Tensor] = {}
        given, parts = parts, [_widened(part) for part in parts]
        # Every table is found in memory before the first is stepped, so that an error leaves all as it was.
        ready = [
            self._found(mesh, [part for part in parts if part.mesh == mesh])
            for mesh in dict.fromkeys(part.mesh for part in parts)
        ]
        for table, stepped in ready:
            if table is not None:
                found.update(zip(map(id, stepped), table.step(stepped, clip), strict=True))
        for part, wide in zip(given, parts, strict=True):
            if wide is not part and id(wide) in found:
                for p, x in zip(part.locals, wide.locals, strict=True):
                    p.copy_(x)
        return [found.get(id(part)) for part in parts]

    def _found(self, mesh: Any, parts: list[Part]) -> tuple["_Table | None", list[Part]]:
        """The table of those parts that the kernels can take."""
        while parts:
            whys = ((part, why_not_fused(part.device, part.dtype, part.group)) for part in parts)
            refused = next(((part, why) for part, why in whys if why), None)
            if refused is None:
                table = self._tables.get(mesh)
                if table is None or not table.fits(parts):
                    table = self._tables[mesh] = _Table(self._states, mesh, parts)
                refused = table.refer(parts)
                if refused is None:
                    return table, parts
            part, why = refused
            if part.group["fused"]:
                raise RuntimeError(f"fused=True: {why}; no parameter and no state was changed")
            # Where one part's memory is another's, both are stepped as the plain path does it.
            parts = [] if why.endswith(_ANSWERS[_SHARED]) else [other for other in parts if other is not part]
        return None, []


def _widened(part: Part) -> Part:
    """The part in fp32 if it is bf16 and a gradient is not: to the kernels both have one dtype."""
    if part.dtype != torch.bfloat16 or all(g.dtype == part.dtype for g in part.grads):
        return part
    masters = part.group["master_weights"]
    weights = [local(s["master"]) for s in part.states] if masters else [x.float() for x in part.locals]
    return replace(part, dtype=torch.float32, locals=weights)


class _Table:
    """The tensors of some parts of one mesh, planned in C once and found in memory again at every step."""

    def __init__(self, states: Sequence[str], mesh: Any, parts: Sequence[Part]) -> None:
        lib = library()
        assert isinstance(lib, Library)
        self._lib, self._states, moments = lib, states, [name for name in states if name != "step"]
        self._roles = dict(enumerate(moments, start=_GRADIENT + 1)) | ({_STEP: "step"} if "step" in states else {})
        self._masters = [_has_masters(part) for part in parts]
        self._params = [p for part in parts for p in part.params]
        self._key = _key(parts)
        self._held: list[list[Any]] = [[]] * _ROLES
        self._objects: list[array[int] | None] = [None] * _ROLES
        self._known: set[int] = set()  # roles whose objects are of a type that the C may look at
        self._grads: list[Tensor] = []
        self._layers = [len(part.params) * part.blocks for part in parts]
        self._layouts = [layout for part in parts for layout in part.layouts]
        self._cut = bool(cut_of(self._layouts))
        self._mesh = mesh
        self._rules = (_Rule * len(parts))()
        self._set_rules(parts, None)
        rows = [
            (index, part.dtype == torch.bfloat16, x.numel()) for index, part in enumerate(parts) for x in part.locals
        ]
        segments = [(*place, layer) for layer, place in enumerate(places(parts))]
        tensors, pieces = array("q", chain.from_iterable(rows)), array("q", chain.from_iterable(segments))
        self._plan = lib.plan(
            len(parts), self._rules, len(rows), tensors.buffer_info()[0], len(segments), pieces.buffer_info()[0],
            sum(self._layers), torch.get_num_threads(),
        )  # fmt: skip
        if not self._plan:
            raise MemoryError("no memory for the fused kernels' tables")
        # Not at exit, when another thread may still be stepping.
        weakref.finalize(self, lib.free, self._plan).atexit = False

    def fits(self, parts: Sequence[Part]) -> bool:
        """Whether these are the parts that were planned."""
        params = [p for part in parts for p in part.params]
        return len(params) == len(self._params) and all(map(is_, params, self._params)) and _key(parts) == self._key

    def _set_rules(self, parts: Sequence[Part], clip: Tensor | None) -> None:
        factor = 1.0 if clip is None else float(clip)
        for i, part in enumerate(parts):
            self._rules[i] = _Rule(lr=float(part.group["lr"]), **rule(self._states, part.group))
            self._rules[i].scale *= factor

    def refer(self, parts: Sequence[Part]) -> tuple[Part, str] | None:
        """Finds every tensor in memory; returns the first part that cannot be stepped, and why, or None."""
        self._grads = [g for part in parts for g in part.grads]
        if any(map(Tensor.is_neg, self._grads)):  # a lazy sign, of which DLPack says nothing
            self._grads = [g.resolve_neg() for g in self._grads]
        owned = [state for part in parts for state in part.states]
        self._hold(_WEIGHT, [x for part in parts for x in part.locals])
        for role, name in self._roles.items():
            self._hold(role, self._local(map(itemgetter(name), owned)))
        if any(self._masters):
            each = (repeat(masters, len(part.params)) for part, masters in zip(parts, self._masters, strict=True))
            flags = chain.from_iterable(each)
            self._hold(_MASTER, self._local(s["master"] if f else None for s, f in zip(owned, flags, strict=True)))
        self._objects[_GRADIENT] = addresses(self._grads)
        wrong = self._fetch()
        if wrong is not None and wrong[0] == _GRADIENT:
            weights = self._held[_WEIGHT]
            self._grads = [_like(x, g) for x, g in zip(weights, self._grads, strict=True)]
            self._objects[_GRADIENT] = addresses(self._grads)
            wrong = self._fetch()
        if wrong is None:
            return None
        role, tensor, why = wrong
        part, index = [(part, i) for part in parts for i in range(len(part.params))][tensor]
        which = {_WEIGHT: "the parameter", _GRADIENT: "its gradient", _MASTER: "its master"}
        return part, f"{part.names[index]}: {which.get(role) or f'its {self._roles[role]}'} {why}"

    def _local(self, tensors: Any) -> list[Any]:
        return list(tensors) if self._mesh is None else [None if t is None else local(t) for t in tensors]

    def _hold(self, role: int, tensors: list[Any]) -> None:
        """Remembers which tensors these are, unless they are those of the last step."""
        held = self._held[role]
        if len(held) != len(tensors) or not all(map(is_, held, tensors)):
            self._held[role] = tensors
            self._objects[role] = array("Q", [0 if t is None else id(t) for t in tensors])
            self._known.discard(role)

    def _fetch(self) -> tuple[int, int, str] | None:
        """None where all is well; else (role, tensor, what is wrong with it)."""
        places = (ctypes.c_void_p * _ROLES)()
        for role, objects in enumerate(self._objects):
            tensors = self._grads if role == _GRADIENT else self._held[role]
            if objects is None:
                continue
            if role not in self._known and not set(map(type, tensors)) <= SEEN:
                return role, next(i for i, t in enumerate(tensors) if type(t) not in SEEN), _ANSWERS[_NO_VIEW]
            if role != _GRADIENT:
                self._known.add(role)
            places[role] = objects.buffer_info()[0]
        wrong = (_INT * 2)()
        answer = self._lib.fetch(self._plan, self._lib.take_view, places, wrong)
        return (wrong[0], wrong[1], _ANSWERS[answer]) if answer else None

    def step(self, parts: Sequence[Part], clip: Tensor | None) -> list[Tensor]:
        """Steps all tensors; of each part, |x|, |u|, the ratio and whether a bound acted, shape (4, layers)."""
        self._set_rules(parts, clip)
        columns = torch.empty(4, sum(self._layers), dtype=torch.float64, device="cpu")
        # Before the step, while the tensors' heads are still in the cache.
        torch.autograd.graph.increment_version([x for part in parts for x in part.locals])
        if not self._cut:
            self._call(_WHOLE, columns)
        else:
            self._call(_FIRST, columns)
            columns[:2] = add_over_mesh([columns[:2]], [self._layouts], self._mesh)[0]
            self._call(_SECOND, columns)
        self._grads = []
        return list(torch.split(columns, self._layers, dim=1))

    def _call(self, phase: int, columns: Tensor) -> None:
        threads = torch.get_num_threads()
        if self._lib.step(self._plan, self._rules, len(self._rules), phase, threads, address(columns)):
            raise MemoryError("no memory for the fused kernels' scratch; no parameter and no state was changed")


def _has_masters(part: Part) -> bool:
    return bool(part.group["master_weights"]) and part.dtype == torch.bfloat16


def _key(parts: Sequence[Part]) -> list[Any]:
    """What the plan of these parts depends on, besides their parameters."""
    return [torch.get_num_threads()] + [
        (len(part.params), part.dtype, part.blocks, part.group["adapt"], part.group.get("form"), _has_masters(part))
        for part in parts
    ]


def _like(x: Tensor, g: Tensor) -> Tensor:
    """The gradient in the parameter's dtype and layout."""
    if g.dtype == x.dtype and g.stride() == x.stride() and type(g) in SEEN and not g._is_zerotensor():
        return g
    return torch.empty_like(x).copy_(g)
