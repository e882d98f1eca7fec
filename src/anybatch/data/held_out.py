"""Chooses the documents kept for evaluation: a pure function of (seed, number of the document)."""

from collections.abc import Callable, Iterable
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from anybatch.data.sampling import random_words
from anybatch.errors import InputError

# A random next sentence comes from another document of the same part.
FEWEST_IN_A_PART = 2
# Up to this many documents, exactly the wanted share is held out; of more, each one with this probability.
_FEW = 1024


# Returns whether each of the documents first .. first + count - 1 is held out.
HeldOut = Callable[[int, int], NDArray[np.bool_]]


def choose(documents: Iterable[object], share: float, seed: int) -> HeldOut:
    """Chooses from the first documents only; if there are few, either part gets at least two.

    Raises:
        InputError: a share outside (0, 1), or fewer than four documents.
    """
    if not 0 < share < 1:
        raise InputError(f"held_out = {share}: must lie between 0 and 1, both excluded")
    count = sum(1 for _ in islice(documents, _FEW + 1))
    if count > _FEW:
        bound = np.uint64(round(share * 2**64))
        return lambda first, count: _hashes(seed, first, count) < bound
    if count < 2 * FEWEST_IN_A_PART:
        raise InputError(
            f"{count} document{'' if count == 1 else 's'}: at least {2 * FEWEST_IN_A_PART} are needed, two to train "
            "on and two to hold out; in a .txt file two blank lines end a document, in .jsonl each line is one"
        )
    chosen = np.zeros(count, dtype=np.bool_)
    num_chosen = min(max(round(count * share), FEWEST_IN_A_PART), count - FEWEST_IN_A_PART)
    chosen[np.argsort(_hashes(seed, 0, count), kind="stable")[:num_chosen]] = True
    return lambda first, count: chosen[first : first + count]


def _hashes(seed: int, first: int, count: int) -> NDArray[np.uint64]:
    numbers = np.arange(first, first + count)
    return random_words(seed, "held out", np.zeros(count, dtype=np.int64), numbers, 1)[:, 0]
