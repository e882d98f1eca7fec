"""Tensors on disk, one part for each rank that holds a piece; any rank can read any rows.

A part is two safetensors files and `part-00000.json`. The latter has their SHA-256 and, for every tensor in them, the
number of its first row (index along dimension 0) in the whole tensor.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from anybatch.errors import InputError
from anybatch.files import read_object, sha256, write_json

Tensors = Mapping[str, Mapping[str, Tensor]]
# By kind and name: the rows of a tensor that a rank writes, and the number of the first.
Held = dict[str, dict[str, tuple[Tensor, int]]]


def held_by(rank: int, tensors: Tensors) -> Held:
    """Returns what rank `rank` writes of `tensors`, by kind and name: its rows of the sharded ones.

    Rank 0 writes the tensors that every rank has.
    """
    held: Held = {kind: {} for kind in tensors}
    for kind, named in tensors.items():
        for name, value in ((name, value.detach()) for name, value in named.items()):
            if isinstance(value, DTensor):
                rows = value.to_local()
                first, count = _place(value)
                assert rows.shape[0] == count, f"rank {rank} holds {rows.shape[0]} rows, not {count}"
                if rows.numel():
                    held[kind][name] = rows, first
            elif rank == 0:
                held[kind][name] = value, 0
    return held


def write_part(folder: Path, number: int, held_tensors: Held) -> None:
    """Writes what rank `number` holds; a rank that holds nothing writes nothing."""
    first_rows: dict[str, dict[str, int]] = {}
    files: dict[str, str] = {}
    for kind, rows in held_tensors.items():
        if not rows:
            continue
        file = folder / f"{kind}-{number:05d}.safetensors"
        with safetensors_errors(file):
            save_file({name: held.contiguous() for name, (held, _) in rows.items()}, file)
        give_ordinary_permissions(file)
        first_rows[kind] = {name: first for name, (_, first) in rows.items()}
        files[file.name] = sha256(file)
    if files:
        write_json(folder / f"part-{number:05d}.json", {"sha256": files, "first_rows": first_rows})


class Parts:
    """The tensors of all parts in `folder`; any rows can be read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.sha256: dict[str, str] = {}
        self._pieces: dict[tuple[str, str], list[tuple[int, Path]]] = {}
        for path in sorted(folder.glob("part-*.json")):
            part = read_object(path)
            self.sha256.update(part["sha256"])
            for kind, first_rows in part["first_rows"].items():
                file = folder / path.name.replace("part", kind).replace(".json", ".safetensors")
                for name, first in first_rows.items():
                    self._pieces.setdefault((kind, name), []).append((first, file))

    def verify(self, share: slice = slice(None)) -> None:
        """Compares a share of the files with their checksums; InputError names the first that differs."""
        for name in sorted(self.sha256)[share]:
            if sha256(self._folder / name) != self.sha256[name]:
                raise InputError(f"{name} does not match its checksum")

    def names(self, kind: str) -> set[str]:
        return {name for found, name in self._pieces if found == kind}

    def shape(self, kind: str, name: str) -> tuple[int, ...]:
        """Returns the shape of a whole tensor."""
        shapes = []
        for _, file in self._pieces[kind, name]:
            with safe_open(file, framework="pt") as opened:
                shapes.append(opened.get_slice(name).get_shape())
        return (sum(shape[0] for shape in shapes), *shapes[0][1:]) if shapes[0] else ()

    def whole(self, kind: str, name: str) -> Tensor:
        """Returns all rows of a tensor."""
        found: list[Tensor] = []
        for _, file in sorted(self._pieces[kind, name]):
            with safe_open(file, framework="pt") as opened:
                found.append(opened.get_tensor(name))
        return torch.cat(found) if len(found) > 1 else found[0]

    def rows(self, kind: str, name: str, first: int, count: int) -> Tensor:
        """Returns `count` rows of a tensor, from row `first` on."""
        found: list[Tensor] = []
        for begin, file in sorted(self._pieces[kind, name]):
            with safe_open(file, framework="pt") as opened:
                piece = opened.get_slice(name)
                low, high = (min(max(bound - begin, 0), piece.get_shape()[0]) for bound in (first, first + count))
                found.append(piece[low:high] if low < high else piece[:1][:0])
        return torch.cat([rows for rows in found if len(rows)] or found[:1])

    def like(self, kind: str, name: str, pattern: Tensor) -> Tensor:
        """Returns a tensor cut like `pattern`; ValueError if its shape is not the pattern's."""
        if not isinstance(pattern, DTensor):
            value = self.whole(kind, name)
            if value.shape != pattern.shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)}, not {tuple(pattern.shape)}")
            return value
        first, count = _place(pattern)
        held = self.rows(kind, name, first, count)
        if held.shape != pattern.to_local().shape:
            raise ValueError(f"{name} has {tuple(held.shape)} in the place of {tuple(pattern.to_local().shape)}")
        return DTensor.from_local(
            held.to(pattern.device), pattern.device_mesh, pattern.placements, run_check=False,
            shape=pattern.shape, stride=pattern.stride(),
        )  # fmt: skip


def _place(value: DTensor) -> tuple[int, int]:
    """Returns the first row of `value` that this rank holds, and how many: FSDP cuts as torch.chunk does."""
    assert value.device_mesh.ndim == 1, "only one dimension of ranks is supported"
    assert value.placements == (Shard(0),), f"only rows are sharded, not {value.placements}"
    rows, size, rank = value.shape[0], value.device_mesh.size(), value.device_mesh.get_local_rank()
    chunk = -(-rows // size)
    first = min(rank * chunk, rows)
    return first, min(chunk, rows - first)


@contextmanager
def safetensors_errors(path: Path) -> Iterator[None]:
    """A block in which safetensors' error for a full disk becomes the system's error for the file `path`."""
    try:
        yield
    except SafetensorError as error:
        if found := re.search(r"\(os error (\d+)\)", str(error)):
            number = int(found[1])
            raise OSError(number, os.strerror(number), str(path)) from None
        raise OSError(f"{path}: could not be written: {error}") from None


def give_ordinary_permissions(file: Path) -> None:
    """Gives a file that safetensors made private the permissions of an ordinary new file."""
    mask = os.umask(0)
    os.umask(mask)
    file.chmod(0o666 & ~mask)
