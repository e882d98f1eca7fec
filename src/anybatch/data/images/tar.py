"""Images in tar shards, as webdataset writes them: KEY.jpg beside KEY.cls, or CLASS/NAME.jpg."""

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anybatch.data.images.decoding import opened_file
from anybatch.data.images.folder import SUFFIXES
from anybatch.data.images.sets import MOST_CLASSES, Classes, numbered, printable
from anybatch.errors import InputError


@dataclass(frozen=True)
class _Member:
    """Where an image lies."""

    shard: int
    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class TarImages:
    """The images of some shards, in order; only their places are kept in memory, and any can be read at once."""

    shards: tuple[Path, ...]
    members: tuple[_Member, ...]
    classes: Classes

    @classmethod
    def of(cls, shards: Sequence[Path]) -> "TarImages":
        """The images in uncompressed `shards`: one pass over the headers.

        The class is the number in KEY.cls, or else the folder that the member lies in.

        Raises:
            InputError: a shard is damaged or packed, or an image has no class.
        """
        members: list[_Member] = []
        numbers: list[int] = []
        folders: list[str] = []
        notes: list[str] = []
        for shard, path in enumerate(shards):
            found, classes, others = _index(path, shard)
            notes += [f"{path}: {printable(name)}: not named like an image" for name in others]
            for member in found:
                pure = PurePosixPath(member.name)
                key = str(pure.parent / pure.name.split(".")[0])
                if key in classes:
                    numbers.append(classes[key])
                elif pure.parent.name:
                    folders.append(printable(pure.parent.name))
                else:
                    raise InputError(f"{path}: {member.name} has no class: neither a .cls beside it nor a folder")
                members.append(member)
            if numbers and folders:
                raise InputError(f"{path}: some images have a .cls beside them, others do not")
        if not members:
            raise InputError(f"{shards[0]}: no image in it")
        if folders:
            labels, names = numbered(folders)
        else:
            labels, names = _by_number(numbers)
        return cls(tuple(shards), tuple(members), Classes(labels, names, tuple(notes)))

    def name(self, index: int) -> str:
        member = self.members[index]
        return f"{self.shards[member.shard]}: {printable(member.name)}"

    def image(self, index: int) -> Image.Image:
        member = self.members[index]
        return opened_file(self.shards[member.shard], member.offset, member.size)


def _by_number(numbers: list[int]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    labels = np.array(numbers, dtype=np.int64)
    return labels, tuple(str(number) for number in range(int(labels.max()) + 1))


def _index(path: Path, shard: int) -> tuple[list[_Member], dict[str, int], list[str]]:
    """The images of a shard, the numbers in its .cls members by key, and the members that are neither."""
    images: list[_Member] = []
    classes: dict[str, int] = {}
    others: list[str] = []
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                pure = PurePosixPath(member.name)
                if not member.isfile() or pure.name.startswith("."):
                    continue
                if pure.suffix.lower() in SUFFIXES:
                    images.append(_Member(shard, member.name, member.offset_data, member.size))
                elif pure.suffix == ".cls":
                    stream = archive.extractfile(member)
                    assert stream is not None
                    classes[str(pure.parent / pure.name.split(".")[0])] = _class(stream.read(32), path, member.name)
                else:
                    others.append(member.name)
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"{path}: not an uncompressed tar file ({error}); unpack it, or copy it again") from None
    return images, classes, others


def _class(text: bytes, path: Path, name: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number < MOST_CLASSES:
        raise InputError(f"{path}: {name}: {text!r} is not the number of a class")
    return number
