"""Finds exact duplicates of earlier documents: hashes in disk partitions, so any number needs little memory."""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_PARTITIONS = 64


def hashes(texts: Sequence[str]) -> Hashes:
    """Returns 128 bits of BLAKE2b of each text, uint64[N, 2]; the layout of white space does not matter."""
    digests = b"".join(hashlib.blake2b(" ".join(text.split()).encode(), digest_size=16).digest() for text in texts)
    return np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)


class DuplicateFinder:
    """Collects the hashes of documents in order, in a temporary folder that is removed at the end.

    A partition holds the hashes with its upper bits, as rows of (hash, hash, number of the document): a sixty-fourth
    of all hashes is in memory at a time, 24 bytes a document.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def __enter__(self) -> "DuplicateFinder":
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        names = [self._folder / f"{number:02d}" for number in range(_PARTITIONS)]
        self._files = [open(name, "wb") for name in names]  # noqa: SIM115  (closed at the end)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files:
            file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, found: Hashes) -> None:
        """Adds the hashes of the next documents."""
        numbers = np.arange(self._count, self._count + len(found), dtype=np.uint64)
        rows = np.column_stack([found, numbers])
        owners = (found[:, 0] >> np.uint64(58)).astype(np.int64)
        for owner in np.unique(owners):
            self._files[owner].write(rows[owners == owner].tobytes())
        self._count += len(found)

    def duplicates(self) -> NDArray[np.uint8]:
        """Returns one bit a document (see numpy.packbits): 1 if its text repeats an earlier one."""
        found = np.zeros(-(-self._count // 8), dtype=np.uint8)
        for file in self._files:
            file.close()
            rows = np.fromfile(file.name, dtype=np.uint64).reshape(-1, 3)
            rows = rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))]
            again = (rows[1:, :2] == rows[:-1, :2]).all(1)
            numbers = rows[1:][again, 2]
            np.bitwise_or.at(found, numbers >> np.uint64(3), (128 >> (numbers & np.uint64(7))).astype(np.uint8))
        return found


def is_marked(marks: NDArray[np.uint8], first: int, count: int) -> NDArray[np.bool_]:
    """Returns the bits first .. first + count - 1."""
    begin = first // 8
    bits = np.unpackbits(marks[begin : (first + count + 7) // 8])
    return bits[first - 8 * begin : first - 8 * begin + count].astype(np.bool_)
