"""The tensors that one call of an update function takes together: this rank's part of each."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from anybatch.optim.kernels import wants_fused
from anybatch.optim.norms import Layers, Norm
from anybatch.optim.sharding import Layout, Piece


def computed_in(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype of the state and of the arithmetic for parameters of `dtype`: at least fp32."""
    return torch.promote_types(dtype, torch.float32)


@dataclass(slots=True, weakref_slot=True)
class Part:
    """The parameters with a gradient of one group, device, dtype and mesh, in the group's order.

    `params` are the optimizer's parameters, which key its state; every other list has this rank's part of them:
    `locals`, the parameters; `grads`; `weights`, which a step moves, in the dtype of the arithmetic (the parameters,
    or fp32 for narrower ones); and `updates`, which is u. The first phase of a step sets the last two. `states` are
    the optimizer's dictionaries.
    """

    group: dict[str, Any]
    device: torch.device
    dtype: torch.dtype
    mesh: Any = None
    names: list[str] = field(default_factory=list)
    params: list[Tensor] = field(default_factory=list)
    layouts: list[Layout] = field(default_factory=list)
    locals: list[Tensor] = field(default_factory=list)
    grads: list[Tensor] = field(default_factory=list)
    states: list[dict[str, Tensor]] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    updates: list[Tensor] = field(default_factory=list)

    @property
    def blocks(self) -> int:
        """The number of layers in each tensor."""
        blocks: int = self.group["blocks"]
        return blocks

    @property
    def foreach(self) -> bool:
        """Whether one call takes many tensors: as the group sets, or on CUDA, since launches cost most there."""
        chosen = self.group.get("foreach")
        return self.device.type == "cuda" if chosen is None else bool(chosen)

    @property
    def fused(self) -> bool:
        """Whether one kernel takes both phases of all tensors; sharded ones only on request: all ranks must agree."""
        if self.mesh is not None:
            return bool(self.group.get("fused"))
        return "fused" in self.group and wants_fused(self.device, self.dtype, self.group)

    def layer_names(self) -> Iterator[str]:
        """Yields name, or name[0], name[1], ... if a tensor is several layers."""
        for name in self.names:
            yield from [name] if self.blocks == 1 else (f"{name}[{b}]" for b in range(self.blocks))

    def scaled_grads(self, clip: Tensor | None) -> Iterable[Tensor]:
        """Yields g as the step uses it: clipped, negated if the group maximizes, in the step's dtype; p.grad stays."""
        grads = (g.to(computed_in(self.dtype)) for g in self.grads)
        sign = -1.0 if self.group["maximize"] else 1.0
        if clip is None and sign == 1.0:
            return grads
        scale = sign if clip is None else (sign * clip).to(self.device, computed_in(self.dtype))
        return torch._foreach_mul(list(grads), scale) if self.foreach else (g * scale for g in grads)

    def layers(self, tensors: list[Tensor], norm: Norm) -> Layers:
        """Returns the input of `measure`."""
        return Layers(tensors, self.layouts, norm, self.mesh)

    def by_layer(self, tensors: list[Tensor]) -> list[Tensor]:
        """Returns the tensors, or views in which dimension 0 runs over the layers of one tensor."""
        if self.blocks == 1:
            return tensors
        return [piece.of(tensors[i]) for i, piece in self._pieces()]

    def _pieces(self) -> Iterator[tuple[int, Piece]]:
        for i, layout in enumerate(self.layouts):
            yield from ((i, piece) for piece in layout.pieces or ())

    def rates(self, rates: Tensor) -> list[Tensor]:
        """Turns one learning rate a layer, shape (layers,), into a factor for each tensor of `by_layer(weights)`."""
        dtype = computed_in(self.dtype)
        # A vanishing update can have a ratio beyond the dtype's range; infinity times the update is no step.
        each = rates.clamp(max=torch.finfo(dtype).max).to(dtype)
        if self.blocks == 1:
            return list(each.unbind())
        rows = each.view(len(self.params), self.blocks)
        return [
            rows[i, piece.first : piece.first + piece.layers].view(-1, *[1] * self.weights[i].ndim)
            for i, piece in self._pieces()
        ]


def places(parts: Iterable[Part]) -> list[tuple[int, int, int]]:
    """Returns (tensor, first element, number of elements) of every layer of the parts; no elements if none are here."""
    tensors = ((x, layout) for part in parts for x, layout in zip(part.locals, part.layouts, strict=True))
    return [(i, *place) for i, (x, layout) in enumerate(tensors) for place in layout.places(x)]
