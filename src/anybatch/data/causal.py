"""Examples for a left-to-right language model: runs of tokens, one document after the other, [SEP] between them.

Source: Radford et al. 2019, Language Models are Unsupervised Multitask Learners, section 2 (text as one stream, cut
into contexts of equal length).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from anybatch.data.batch import Batch
from anybatch.data.pairs import Marks
from anybatch.data.shards import Shard, Shards
from anybatch.errors import InputError

SHORTEST_SEQUENCE = 2


class CausalSource:
    """Contexts of `seq_length` tokens: the tokens of all documents in order, [SEP] after each, cut evenly.

    The rest after the last whole context is left out. Nothing is random: an example is the same in every epoch.

    Raises:
        InputError: a length below 2, shards written with another vocabulary, or too few tokens for one context.
    """

    def __init__(self, shards: Shards, tokenizer: Tokenizer, seq_length: int) -> None:
        if seq_length < SHORTEST_SEQUENCE:
            raise InputError(f"sequence length {seq_length}: must be at least {SHORTEST_SEQUENCE}")
        shards.check_vocabulary(tokenizer)
        self.seq_length = seq_length
        self._separator = Marks.of(tokenizer).separator
        self._shards, self._parts = shards, shards.parts
        # The start of each shard's part of the stream; a document takes its tokens and one separator.
        self._begins = np.cumsum([0, *(len(part.tokens) + len(part.document_ends) for part in shards.parts)])
        self._ends = [_document_ends(part) for part in shards.parts]
        if self.num_examples < 1:
            raise InputError(
                f"{shards.path}: holds {shards.num_tokens} tokens, not enough for one sequence of {seq_length}"
            )

    @property
    def num_examples(self) -> int:
        """Returns the number of whole contexts in the stream."""
        return int(self._begins[-1]) // self.seq_length

    def batch(self, epochs: NDArray[np.int64], examples: NDArray[np.int64]) -> Batch:
        """Returns B contexts; both arguments are int64[B].

        Returns:
            input_ids, int64[B, S]. Targets: "lm" B * (S - 1), each token except the first of a context.
        """
        places = np.asarray(examples, dtype=np.int64)[:, None] * self.seq_length + np.arange(self.seq_length)
        ids = self._tokens(places.reshape(-1)).reshape(places.shape)
        self._shards.check_tokens(ids)
        count = len(examples)
        return Batch({"input_ids": torch.from_numpy(ids)}, {"lm": count * (self.seq_length - 1)}, count)

    def _tokens(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the tokens at the given places of the stream."""
        found = np.full(len(places), self._separator, dtype=np.int64)
        owners = np.searchsorted(self._begins, places, side="right") - 1
        for owner in np.unique(owners):
            mine = np.flatnonzero(owners == owner)
            inside = places[mine] - self._begins[owner]
            # The separators before a place belong to the documents that end before it: the d-th separator is at its
            # end + d.
            separators = self._ends[owner] + np.arange(len(self._ends[owner]))
            before = np.searchsorted(separators, inside, side="left")
            is_text = separators[np.minimum(before, len(separators) - 1)] != inside
            found[mine[is_text]] = self._parts[owner].tokens[(inside - before)[is_text]]
        return found


def _document_ends(part: Shard) -> NDArray[np.int64]:
    return part.sentence_ends[part.document_ends.astype(np.int64) - 1].astype(np.int64)
