"""The characters of a text, most frequent first."""

from collections.abc import Iterable

import numpy as np
from tokenizers import normalizers

from anybatch.data.sentences import in_batches, in_pieces

_CODE_POINTS = 0x110000
_COUNTED_AT_ONCE = 1 << 20
_COVERED = 0.9995


def most_frequent(texts: Iterable[str], normalizer: normalizers.Normalizer, *, most: int, fewest: int) -> list[str]:
    """Returns the fewest characters that cover 99.95 % of the normalized texts, in the order of their code points.

    Args:
        most, fewest: the largest number of characters, and the smallest if the texts have as many. White space does
            not count.
    """
    counts = np.zeros(_CODE_POINTS, dtype=np.int64)
    # The cost of counting a whole alphabet is paid once a megabyte.
    for part in in_batches(in_pieces(texts), len, _COUNTED_AT_ONCE):
        points = np.frombuffer(normalizer.normalize_str("\n".join(part)).encode("utf-32-le"), dtype=np.uint32)
        counts += np.bincount(points, minlength=_CODE_POINTS)
    seen = [point for point in np.flatnonzero(counts).tolist() if not chr(point).isspace()]
    ordered = sorted(seen, key=lambda point: (-counts[point], point))
    covered = np.cumsum(counts[ordered])
    needed = int(np.searchsorted(covered, _COVERED * covered[-1])) + 1 if seen else 0
    return [chr(point) for point in sorted(ordered[: min(most, max(fewest, needed))])]
