"""What is in token shards, document by document."""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anybatch.data.shards import Shards


def documents(shards: Shards) -> list[list[NDArray[Any]]]:
    """The sentences of every document, each an array of tokens."""
    found = []
    for part in shards.parts:
        sentences = np.split(part.tokens, part.sentence_ends[:-1].astype(np.int64))
        begins = [0, *part.document_ends.tolist()]
        found += [sentences[begin:end] for begin, end in pairwise(begins)]
    return found
