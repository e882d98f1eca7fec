"""LAMB and LARS fused in Triton: two launches a step for all tensors, three with a look at the gradients first.

The programs are in `triton_lamb.py` and `triton_lars.py`; here are the tables that tell them which tensors there are,
and the launches. Nothing waits for the device.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from anybatch.optim.kernels import triton_programs as programs
from anybatch.optim.kernels.triton_lamb import lamb_apply, lamb_moments
from anybatch.optim.kernels.triton_lars import AVERAGE, RATE_INSIDE, RATE_OUTSIDE, lars_apply, lars_directions

# Elements that a program works through, and at a time. Every program of phase 2 adds up its layer anew, from two
# numbers a chunk: with much shorter chunks that would be a share of the traffic for BERT's embedding.
CHUNK = 32_768
BLOCK = 1_024

_DTYPES: dict[torch.dtype | None, Any] = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}
_FORMS = {"lamb-paper": AVERAGE, "lars-2017": RATE_INSIDE, "lr-outside": RATE_OUTSIDE}


class Kind(NamedTuple):
    """What one launch is compiled for."""

    measure: Any  # the program of phase 1
    apply: Any  # the program of phase 2
    variant: tuple[tuple[str, int], ...]  # constants of both
    x: torch.dtype
    parameter: torch.dtype
    gradient: torch.dtype
    rate: torch.dtype | None  # of a learning rate that is a tensor on the device

    def constants(self, *names: str) -> dict[str, Any]:
        """The dtypes by the names that the programs give them."""
        dtypes = {"X": self.x, "PARAMETER": self.parameter, "GRADIENT": self.gradient, "RATE": self.rate}
        return {f"{name}_DTYPE": _DTYPES.get(dtypes[name]) for name in names}


class Layer(NamedTuple):
    """Where a layer lies: elements that follow each other in one tensor."""

    tensor: int
    start: int
    numel: int


class FusedTensors:
    """The tensors of one launch. A step is `refer`, perhaps `look`, `measure`, perhaps `totals`, `apply`.

    Args:
        device: CUDA, or the CPU in Triton's interpreter.
        layers: with or without elements here; those of a tensor stand together.
        groups: of each tensor, the row of the settings.
    """

    def __init__(self, device: torch.device, kind: Kind, layers: Sequence[Layer], groups: Sequence[int]) -> None:
        self.device, self.kind, self.layers, self.tensors = device, kind, len(layers), len(groups)
        self._group = torch.tensor(groups, dtype=torch.int64, device="cpu")
        self._tensor, self._start, numel = torch.tensor(layers, dtype=torch.int64, device="cpu").unbind(1)
        # Without elements, too: someone has to count the step and to record the layer.
        chunks = ((numel + CHUNK - 1) // CHUNK).clamp(min=1)
        layer = torch.repeat_interleave(chunks)
        index = torch.arange(len(layer), dtype=torch.int64, device="cpu") - (chunks.cumsum(0) - chunks)[layer]
        count = (numel[layer] - index * CHUNK).clamp(max=CHUNK)
        self._chunk_rows = torch.stack([layer, index, count, torch.zeros_like(index)], dim=1)
        self._size = len(layer)
        self._chunks = _Table(device, torch.int32, self._size, programs.CHUNK_COLUMNS.value)
        self._layers = _Table(device, torch.int64, len(numel), programs.LAYER_COLUMNS.value)
        self._settings = _Table(device, torch.float64, max(groups) + 1, programs.SETTING_COLUMNS.value)
        self._limit = _Table(device, torch.float64, 1, 1)
        self._first = _starts(layer, self.layers).to(device)
        self._first_of_tensor = _starts(self._tensor[layer], self.tensors).to(device)
        self._each_layer = torch.arange(self.layers + 1, dtype=torch.int32, device=device)
        self._estimates = torch.empty(len(numel), 4, dtype=torch.float32, device=device)
        self._addresses: Any = None
        self._arrivals = torch.zeros(self.tensors + 1, dtype=torch.int32, device=device)
        self._squares, self._sums, self._verdict, self._totals, self._record = (
            torch.zeros(shape, dtype=torch.float64, device=device)
            for shape in [(2, self._size), (self.tensors,), (3,), (2, self.layers), (4, self.layers)]
        )

    def refer(self, addresses: Sequence[Sequence[int]], settings: Sequence[Sequence[float]]) -> None:
        """Copies to the device, where it has changed, where everything is and how to step.

        Args:
            addresses: columns: of x, the parameters, the gradients, both states, the steps, the rates; 0 for none.
            settings: rows of the groups, as `lamb_settings` and `lars_settings` make them.
        """
        self._settings.write(torch.tensor(settings, dtype=torch.float64, device="cpu"))
        if addresses == self._addresses:
            return
        self._addresses = addresses
        sizes = [self.kind.x.itemsize, self.kind.parameter.itemsize, self.kind.gradient.itemsize, 4, 4, 0, 0]
        of_tensor = torch.tensor(addresses, dtype=torch.int64, device="cpu").T
        of_layer = of_tensor[self._tensor] + self._start[:, None] * torch.tensor(sizes, dtype=torch.int64, device="cpu")
        leads = torch.ones_like(self._tensor)
        leads[1:] = self._tensor[1:] != self._tensor[:-1]
        own = torch.stack([self._group[self._tensor], self._tensor, leads], dim=1)
        self._layers.write(torch.cat([of_layer, own], dim=1))
        layer, _, count, _ = self._chunk_rows.unbind(1)
        self._chunk_rows[:, 3] = (of_layer[:, :5] % 16 == 0).all(dim=1)[layer] & (count % 8 == 0)
        self._chunks.write(self._chunk_rows)

    def look(self, max_grad_norm: float | None) -> tuple[Tensor, Tensor]:
        """|g|^2 of every tensor; and of the finite ones their sum, the number of the others, the factor that clips."""
        limit = sys.float_info.max if max_grad_norm is None else max_grad_norm
        self._limit.write(torch.tensor([[limit]], dtype=torch.float64, device="cpu"))
        self._launch(
            programs.look_at_gradients, self._size, self._chunks.there, self._layers.there, self._first_of_tensor,
            self._squares, self._sums, self._arrivals, self._limit.there, self._verdict, self.tensors,
            CHUNK=CHUNK, **self.kind.constants("GRADIENT"),
        )  # fmt: skip
        return self._sums, self._verdict

    def measure(self, clip: Tensor | None) -> None:
        """Phase 1, with the gradients times `clip`, a 0-d float64 of this device."""
        self._launch(
            self.kind.measure, self._size, self._chunks.there, self._layers.there, self._settings.there,
            self._squares, self._size, self._estimates, clip, CLIP=clip is not None, CHUNK=CHUNK,
            **dict(self.kind.variant), **self.kind.constants("X", "GRADIENT"),
        )  # fmt: skip

    def apply(self, clip: Tensor | None, totals: Tensor | None = None) -> Tensor:
        """Phase 2, with `totals` where ranks share layers; |x|, |u|, ratio and clamped of the layers, (4, layers)."""
        squares, stride, first = self._squares, self._size, self._first
        if totals is not None:
            squares, stride, first = totals, self.layers, self._each_layer
        self._launch(
            self.kind.apply, self._size, self._chunks.there, self._layers.there, self._settings.there,
            squares, stride, first, self._estimates, clip, self._record, self.layers, CLIP=clip is not None,
            CHUNK=CHUNK, **dict(self.kind.variant), **self.kind.constants("X", "PARAMETER", "GRADIENT", "RATE"),
        )  # fmt: skip
        return self._record

    def totals(self) -> Tensor:
        """|x|^2 and |u|^2 of this rank's part of every layer, shape (2, layers), after `measure`."""
        self._launch(
            programs.add_up_layers, self.layers, self._first, self._squares, self._size, self._totals, self.layers
        )
        return self._totals

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


def _starts(owners: Tensor, number: int) -> Tensor:
    """Where each owner's chunks begin: shape (number + 1,)."""
    return torch.searchsorted(owners, torch.arange(number + 1, dtype=torch.int64, device="cpu")).int()


def lamb_kind(group: Mapping[str, Any], **dtypes: Any) -> Kind:
    """The kind of launch for tensors of a group of LAMB."""
    nesterov = (None, "m", "mv").index(group["nesterov"])
    return Kind(lamb_moments, lamb_apply, (("NESTEROV", nesterov),), **dtypes)


def lars_kind(group: Mapping[str, Any], **dtypes: Any) -> Kind:
    """The kind of launch for tensors of a group of LARS."""
    variant = (("FORM", _FORMS[group["form"]].value), ("NESTEROV", int(group["nesterov"])))
    return Kind(lars_directions, lars_apply, variant, **dtypes)


def lamb_settings(group: Mapping[str, Any], lr: float) -> list[float]:
    """The row of settings for a group of LAMB."""
    return _settings(
        group,
        lr,
        {
            programs.DECAY_1: group["betas"][0],
            programs.DECAY_2: group["betas"][1],
            programs.EPS: group["eps"],
            programs.CORRECTS: group["bias_correction"],
            programs.COEFFICIENT: 1.0,
        },
    )


def lars_settings(group: Mapping[str, Any], lr: float) -> list[float]:
    """The row of settings for a group of LARS."""
    average, joint = group["form"] == "lamb-paper", group["joint_norm"]
    return _settings(
        group,
        lr,
        {
            programs.DECAY_1: group["momentum"],
            programs.COEFFICIENT: group["trust_coefficient"],
            programs.RATIO_EPS: group["eps"],
            programs.IN_DIRECTION: group["weight_decay"] if average or joint else 0.0,
            programs.IN_NORM: 0.0 if average or joint else group["weight_decay"],
        },
    )


def _settings(group: Mapping[str, Any], lr: float, own: dict[Any, float]) -> list[float]:
    row = [0.0] * programs.SETTING_COLUMNS.value
    shared = {
        programs.LR: lr,
        programs.WEIGHT_DECAY: group["weight_decay"],
        programs.SIGN: -1.0 if group["maximize"] else 1.0,
        programs.ADAPT: group["adapt"],
    }
    for column, value in {**shared, **own}.items():
        row[column.value] = float(value)
    for decay, log in ((programs.DECAY_1, programs.LOG_DECAY_1), (programs.DECAY_2, programs.LOG_DECAY_2)):
        row[log.value] = math.log(row[decay.value]) if row[decay.value] else -math.inf
    for column, bounds in ((programs.PHI, group["phi"]), (programs.TRUST_CLIP, group["trust_clip"])):
        row[column.value : column.value + 2] = bounds
    return row
