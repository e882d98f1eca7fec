"""Examples for a left-to-right language model: runs of tokens, one document after the other, [SEP] between them.

Source: Radford et al. 2019, Language Models are Unsupervised Multitask Learners, section 2 (text as one stream, cut
into contexts of equal length).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from anybatch.data.batch import Batch
from anybatch.data.pairs import Tokens
from anybatch.data.shards import Shards
from anybatch.data.vocabulary import special_ids
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
        self._separator = special_ids(tokenizer)["[SEP]"]
        self._shards = shards
        self._text = Tokens([part.tokens for part in shards.parts])
        # A document takes its tokens and one separator, so the d-th separator is at the end of its document + d.
        lengths = [np.diff(part.sentence_ends[part.document_ends - 1], prepend=0) for part in shards.parts]
        self._separators = np.cumsum(np.concatenate([np.zeros(0, dtype=np.int64), *lengths]) + 1, dtype=np.int64) - 1
        # Whole contexts in the stream.
        self.num_examples = (shards.num_tokens + shards.num_documents) // seq_length
        if self.num_examples < 1:
            raise InputError(
                f"{shards.path}: holds {shards.num_tokens} tokens, not enough for one sequence of {seq_length}"
            )

    def batch(self, epochs: NDArray[np.int64], examples: NDArray[np.int64]) -> Batch:
        """Returns B contexts; both arguments are int64[B].

        Returns:
            input_ids, int64[B, S]. Targets: "lm" B * (S - 1), each token except the first of a context.
        """
        places = np.asarray(examples, dtype=np.int64)[:, None] * self.seq_length + np.arange(self.seq_length)
        ids = np.full(places.shape, self._separator, dtype=np.int64)
        before = np.searchsorted(self._separators, places, side="left")
        is_text = self._separators[before] != places
        ids[is_text] = self._text[(places - before)[is_text]]
        self._shards.check_tokens(ids)
        count = len(examples)
        return Batch({"input_ids": torch.from_numpy(ids)}, {"lm": count * (self.seq_length - 1)}, count)
