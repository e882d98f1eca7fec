"""This rank's part of a sharded tensor: which rows, of which layers, and which ranks hold the rest."""

import math
import sys
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Piece(NamedTuple):
    """Rows start .. stop of a tensor, which are `layers` equal slices, the first of them layer number `first`."""

    start: int
    stop: int
    first: int
    layers: int

    def of(self, t: Tensor) -> Tensor:
        """Returns the rows in a view whose dimension 0 runs over the layers."""
        rows = self.stop - self.start
        return t.narrow(0, self.start, rows).view(self.layers, rows // self.layers, *t.shape[1:])


class Layout(NamedTuple):
    """The layers of one tensor in this rank's part of it.

    Attributes:
        blocks: the number of layers in the whole tensor.
        pieces: their places in the local rows; None: the local tensor, of any size, is part of a single layer.
        cut: mesh dimensions (of more than one rank) along which the tensor is sharded.
    """

    blocks: int
    pieces: tuple[Piece, ...] | None
    cut: frozenset[int]

    def undivided(self) -> "Layout":
        """The same tensor as one layer."""
        return Layout(1, None, self.cut)

    def places(self, t: Tensor) -> list[tuple[int, int]]:
        """(first element, number of elements) of every layer in this rank's part `t` of the tensor; or (0, 0)."""
        if self.pieces is None:
            return [(0, t.numel())]
        found = [(0, 0)] * self.blocks
        width = t.numel() // max(t.shape[0], 1)
        for start, stop, first, layers in self.pieces:
            rows = (stop - start) // layers
            found[first : first + layers] = [((start + i * rows) * width, rows * width) for i in range(layers)]
        return found


def is_sharded(t: Tensor) -> bool:
    """Returns whether `t` is a DTensor, also if every rank holds the whole tensor."""
    # DTensor's module is large; a tensor can be a DTensor only if something has imported it.
    distributed = sys.modules.get("torch.distributed.tensor")
    return distributed is not None and isinstance(t, distributed.DTensor)


def local(t: Tensor) -> Tensor:
    """Returns this rank's part of `t`, which shares its memory."""
    here: Tensor = t.to_local() if is_sharded(t) else t  # type: ignore[attr-defined]
    return here


def mesh_of(t: Tensor) -> Any:
    """Returns the device mesh over which `t` is distributed, None for an ordinary tensor."""
    return t.device_mesh if is_sharded(t) else None  # type: ignore[attr-defined]


def layout_words(t: Tensor) -> str:
    """Returns for an error message how `t` is distributed."""
    return f"sharded {t.placements} over {t.device_mesh}" if is_sharded(t) else "an ordinary tensor"  # type: ignore[attr-defined]


def layout_of(t: Tensor, blocks: int) -> Layout:
    """Returns where the `blocks` equal slices of `t` along dimension 0 are on this rank.

    Raises:
        TypeError: a mesh dimension holds partial sums, or the rows of a tensor in blocks are scattered on this rank.
    """
    if is_sharded(t):
        return _sharded_layout(t.shape, blocks, t.device_mesh, t.placements)  # type: ignore[attr-defined]
    return Layout(blocks, _pieces(0, t.shape[0], t.shape[0] // blocks) if blocks > 1 else None, frozenset())


@lru_cache(maxsize=65536)
def _sharded_layout(shape: torch.Size, blocks: int, mesh: Any, placements: Sequence[Any]) -> Layout:
    for placement in placements:
        if not placement.is_replicate() and not hasattr(placement, "dim"):
            raise TypeError(f"placement {placement} on {mesh}: only Shard and Replicate can be stepped")
    cut = {i: placement.dim for i, placement in enumerate(placements) if hasattr(placement, "dim") and mesh.size(i) > 1}
    if blocks == 1:
        return Layout(1, None, frozenset(cut))
    # Applies the definition of each placement to the row numbers: correct for uneven and strided shards, too.
    rows = torch.arange(shape[0], dtype=torch.int64, device="cpu")
    for i, placement in enumerate(placements):
        if cut.get(i) == 0:
            shards, _ = placement._split_tensor(rows, mesh.size(i), with_padding=False)
            rows = shards[mesh.get_local_rank(i)]
    start = int(rows[0]) if len(rows) else 0
    if len(rows) and int(rows[-1]) - start + 1 != len(rows):
        raise TypeError(f"blocks={blocks} of a tensor whose rows {placements} scatters: shard it along one dimension")
    return Layout(blocks, _pieces(start, start + len(rows), shape[0] // blocks), frozenset(cut))


def _pieces(start: int, stop: int, size: int) -> tuple[Piece, ...]:
    """Splits rows start .. stop at the layers of `size` rows: the end of a layer, whole layers, the start of one."""
    if size == 0:
        return ()
    whole_from = min(stop, -(-start // size) * size)
    whole_to = max(whole_from, stop // size * size)
    several = [(start, whole_from, 1), (whole_from, whole_to, (whole_to - whole_from) // size), (whole_to, stop, 1)]
    return tuple(Piece(a - start, b - start, a // size, layers) for a, b, layers in several if a < b)


def cut_of(layouts: Iterable[Layout]) -> frozenset[int]:
    """Returns the mesh dimensions along which any of the tensors is sharded."""
    return frozenset[int]().union(*(layout.cut for layout in layouts))


def away_in(mesh: Any, dims: Collection[int]) -> frozenset[int]:
    """Returns those of `dims` in which this rank is not the first; if nothing is cut, the first counts for all."""
    return frozenset(i for i in dims if mesh.get_local_rank(i) > 0)


def add_over_mesh(shares: Sequence[Tensor], layouts: Sequence[Sequence[Layout]], mesh: Any) -> list[Tensor]:
    """Adds up each rank's shares of every layer, in one all-reduce of all shares.

    Args:
        shares: this rank's shares, each of shape (..., layers).
        layouts: for each share, the layouts of its tensors.
    """
    dims = cut_of(layout for several in layouts for layout in several)
    away = away_in(mesh, dims)
    spoken = []
    for share, several in zip(shares, layouts, strict=True):
        silent = [not away <= layout.cut for layout in several for _ in range(layout.blocks)]
        if any(silent):
            share = share.masked_fill(torch.tensor(silent, dtype=torch.bool, device=share.device), 0.0)
        spoken.append(share)
    packed = torch.cat(spoken, dim=-1)
    reduce_over(packed, mesh, dims, dist.ReduceOp.SUM)
    return list(torch.split(packed, [share.shape[-1] for share in spoken], dim=-1))


def reduce_over(packed: Tensor, mesh: Any, dims: Collection[int], op: Any) -> None:
    """Reduces `packed` in place over the ranks that differ from this one only in the mesh dimensions `dims`.

    One all-reduce if `dims` has one dimension or spans all ranks; otherwise one a dimension. A group for several
    dimensions can be made only with the help of ranks outside it, and PyTorch makes groups only for single dimensions.
    """
    if len(dims) > 1 and math.prod(mesh.size(i) for i in dims) == dist.get_world_size():
        dist.all_reduce(packed, op)
        return
    for i in sorted(dims):
        dist.all_reduce(packed, op, group=mesh.get_group(i))
