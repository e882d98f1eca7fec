"""Finds exact duplicates of earlier documents: hashes in disk partitions, so any number needs little memory."""

import hashlib
import shutil
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_PARTITIONS = 64


def hashes(texts: Sequence[str]) -> Hashes:
    """Returns 128 bits of BLAKE2b of each text, uint64[N, 2]; the layout of white space does not matter."""
    digests = b"".join(hashlib.blake2b(" ".join(text.split()).encode(), digest_size=16).digest() for text in texts)
    return np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)


def find_duplicates(hashed: Iterable[Hashes], folder: Path) -> NDArray[np.bool_]:
    """Returns whether each document repeats an earlier one, from the hashes of all documents in order.

    A partition, a file in the temporary `folder`, holds the hashes with its upper bits, as rows of (hash, hash, number
    of the document): a sixty-fourth of all hashes is in memory at a time, 24 bytes a document.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    count = 0
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        files = [stack.enter_context(open(folder / f"{number:02d}", "wb")) for number in range(_PARTITIONS)]
        for found in hashed:
            rows = np.column_stack([found, np.arange(count, count + len(found), dtype=np.uint64)])
            owners = (found[:, 0] >> np.uint64(58)).astype(np.int64)
            for owner in np.unique(owners):
                files[owner].write(rows[owners == owner].tobytes())
            count += len(found)
        marks = np.zeros(count, dtype=np.bool_)
        for file in files:
            file.close()
            rows = np.fromfile(file.name, dtype=np.uint64).reshape(-1, 3)
            rows = rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))]
            again = (rows[1:, :2] == rows[:-1, :2]).all(1)
            marks[rows[1:][again, 2]] = True
    return marks
