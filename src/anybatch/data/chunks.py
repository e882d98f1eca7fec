"""The places of pretraining examples in the shards: even cuts of documents, and the sentences that begin in them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anybatch.data.shards import Shard

Places = NDArray[np.int64]


@dataclass(frozen=True)
class Chunks:
    """Chunk c is the tokens begin[c] .. end[c] - 1, counted over all shards, in document[c] (ascending).

    It can be split at the tokens split[first_split[c]] .. split[first_split[c + 1] - 1]: at least one. `owner` is each
    split's chunk.
    """

    begin: Places
    end: Places
    document: Places
    split: Places
    first_split: Places
    owner: Places

    def __len__(self) -> int:
        return len(self.begin)


def cut(parts: tuple[Shard, ...], room: int) -> Chunks:
    """Cuts each document into the fewest chunks of at most `room` tokens, of nearly equal length.

    A chunk may begin and end in the middle of a sentence: whole sentences would leave a fifth of short sequences
    empty. A chunk can be split wherever a sentence begins inside it, otherwise in its middle. A chunk of a single
    token cannot be split, and is left out.
    """
    columns: tuple[list[Places], ...] = ([], [], [], [])
    num_tokens = num_documents = 0
    for part in parts:
        for column, values in zip(columns, _cut_shard(part, room), strict=True):
            column.append(values + (num_documents if column is columns[2] else num_tokens))
        num_tokens += len(part.tokens)
        num_documents += len(part.document_ends)
    begin, end, document, split = (np.concatenate([np.zeros(0, dtype=np.int64), *column]) for column in columns)
    first_split = np.append(np.searchsorted(split, begin), len(split))
    return Chunks(begin, end, document, split, first_split, np.repeat(np.arange(len(begin)), np.diff(first_split)))


def _cut_shard(part: Shard, room: int) -> tuple[Places, Places, Places, Places]:
    """Returns begin, end, document and split (see Chunks), counted within the shard."""
    sentence_ends = part.sentence_ends.astype(np.int64)
    document_ends = sentence_ends[part.document_ends.astype(np.int64) - 1]
    lengths = np.diff(document_ends, prepend=0)
    counts = -(-lengths // room)
    document = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    cuts = lengths[document] * np.stack([place, place + 1]) // counts[document]
    begin, end = cuts + (document_ends - lengths)[document]
    begin, end, document = (column[end - begin > 1] for column in (begin, end, document))
    # A sentence that begins where its chunk begins splits nothing; neither does one in a chunk that is left out.
    inside = np.searchsorted(begin, sentence_ends, side="right") - 1
    splits = sentence_ends[(sentence_ends > begin[inside]) & (sentence_ends < end[inside])] if len(begin) else begin
    is_whole = np.searchsorted(splits, begin) == np.searchsorted(splits, end)
    return begin, end, document, np.sort(np.concatenate([splits, (begin + end)[is_whole] // 2]))
