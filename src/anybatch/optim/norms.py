"""Norms of layers, accumulated in float64: blocks inside a tensor, shards across ranks, one packed all-reduce."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.linalg import vector_norm

from anybatch.optim.kernels.library import squares
from anybatch.optim.sharding import Layout, add_over_mesh, away_in, cut_of, reduce_over

Norm = Literal["l2", "l1", "linf"]
ORDER: dict[str, float] = {"l2": 2.0, "l1": 1.0, "linf": math.inf}

# Elements that the CPU sums at a time. The float64 copy of these stays in the cache (a copy of a whole embedding costs
# ten times as much). Below torch's grain of 32,768 one thread sums them: the norm has the same bits on any number of
# threads, and no barrier waits for a busy neighbor.
_PIECE = 32_000


class Layers(NamedTuple):
    """Tensors on one device whose layers are to be measured: this rank's part of each, and how they are cut."""

    tensors: list[Tensor]
    layouts: list[Layout]
    norm: Norm
    mesh: Any = None


def measure(several: Sequence[Layers]) -> list[Tensor]:
    """Returns the norms of all layers, over all their shards: for each of `several` a tensor of shape (layers,).

    Everything sharded over one mesh is summed in one all-reduce, maxima (linf) in one more. Every rank of the mesh
    must call with the same layers, and gets the same bits.
    """
    norms: dict[int, Tensor] = {}
    meshes: dict[tuple[Any, bool], list[int]] = {}
    for i, layers in enumerate(several):
        cut = any(layout.cut for layout in layers.layouts)
        if cut:
            meshes.setdefault((layers.mesh, layers.norm == "linf"), []).append(i)
        else:
            norms[i] = _local_norms(layers)
    for (mesh, largest), indices in meshes.items():
        reduced = _over_mesh([several[i] for i in indices], mesh, largest)
        for i, result in zip(indices, reduced, strict=True):
            norms[i] = result
    return [norms[i] for i in range(len(several))]


def _over_mesh(several: list[Layers], mesh: Any, largest: bool) -> list[Tensor]:
    dims = cut_of(layout for layers in several for layout in layers.layouts)
    if largest:
        return _maxima([_local_norms(layers) for layers in several], mesh, dims)
    away, shares = away_in(mesh, dims), []
    for layers in several:
        share = _local_norms(layers, away)
        shares.append(share.square() if layers.norm == "l2" else share)
    totals = add_over_mesh(shares, [layers.layouts for layers in several], mesh)
    return [total.sqrt() if layers.norm == "l2" else total for layers, total in zip(several, totals, strict=True)]


def _maxima(norms: list[Tensor], mesh: Any, dims: frozenset[int]) -> list[Tensor]:
    packed = torch.cat(norms)
    # Whether a maximum passes a NaN on differs from one backend to the next.
    packed = torch.cat([packed.nan_to_num(nan=0.0, posinf=math.inf), packed.isnan().to(packed.dtype)])
    reduce_over(packed, mesh, dims, dist.ReduceOp.MAX)
    packed, lost = packed.chunk(2)
    return list(torch.split(packed.where(lost == 0, math.nan), [len(each) for each in norms]))


def _local_norms(layers: Layers, away: frozenset[int] = frozenset()) -> Tensor:
    """Returns what this rank's rows add to each layer; 0 for tensors that another rank counts."""
    tensors, layouts = layers.tensors, layers.layouts
    exact, order = accumulator(tensors[0].device), ORDER[layers.norm]
    simple = all(layout.pieces is None and away <= layout.cut for layout in layouts)
    if simple and tensors[0].device.type == "cuda" and all(t.numel() for t in tensors):
        return torch.stack(torch._foreach_norm(tensors, order, dtype=exact))
    if simple and layers.norm == "l2" and not torch.compiler.is_compiling():
        found = squares(tensors)
        if found is not None:
            return found.sqrt()
    norms = []
    for t, (blocks, pieces, cut) in zip(tensors, layouts, strict=True):
        if not away <= cut or t.numel() == 0:
            norms.append(torch.zeros(blocks, dtype=exact, device=t.device))
        elif pieces is None:
            norms.append(_rows_norm(t.reshape(1, -1), order, exact))
        else:
            before, after = pieces[0].first, blocks - pieces[-1].first - pieces[-1].layers
            norms.append(torch.zeros(before, dtype=exact, device=t.device))
            norms += [_rows_norm(piece.of(t).flatten(1), order, exact) for piece in pieces]
            norms.append(torch.zeros(after, dtype=exact, device=t.device))
    return torch.cat(norms)


def _rows_norm(rows: Tensor, order: float, dtype: torch.dtype) -> Tensor:
    pieces = [rows]
    if rows.device.type == "cpu" and rows.numel() > _PIECE:
        pieces = list(torch.split(rows, max(1, _PIECE // len(rows)), dim=1))
    norms: list[Tensor] = [vector_norm(piece, order, dim=1, dtype=dtype) for piece in pieces]
    if len(norms) > 1:
        norms = [vector_norm(torch.stack(norms), order, dim=0)]
    return norms[0]


def has_numbers(t: Tensor) -> bool:
    """Returns whether the host can read the numbers in `t`, which is not on the meta device or in a FakeTensorMode."""
    return not (t.is_meta or isinstance(t, FakeTensor))


def accumulator(device: torch.device) -> torch.dtype:
    """Returns the dtype in which norms are summed on a device: float64 if the device has it.

    torch's float32 norms are not enough: on the CPU they are off by 2e-3 at the size of BERT-large's embedding.
    """
    return torch.float32 if device.type == "mps" else torch.float64
