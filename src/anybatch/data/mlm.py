"""BERT's pretraining examples: masked words and next sentence, drawn on the fly.

    [CLS] A [SEP] B [SEP]     A and B from one run of sentences (label 0), or B from another document (label 1)

Source: Devlin et al. 2019, arXiv 1810.04805, section 3.1.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from anybatch.data import chunks
from anybatch.data.batch import Batch
from anybatch.data.pairs import NUM_MARKS, Marks, Pairs, Places, Tokens, join
from anybatch.data.sampling import Words, below, random_words
from anybatch.data.shards import Shards
from anybatch.data.vocabulary import ordinary_ids
from anybatch.errors import InputError

SHORTEST_SEQUENCE = 16
LONGEST_SEQUENCE = 1 << 15

# How far from the wanted length, in places of the list sorted by length, a part of another document is looked for.
_REACHES = (0, 0, 0, 16, 128, 1024)
_NUM_PAIR_WORDS = 3 + len(_REACHES)
_POSITION_BITS = np.uint64(16)
_LOW_32 = np.uint64(0xFFFFFFFF)


class PretrainingSource:
    """Pretraining examples of `seq_length` tokens from shards.

    An example is a chunk of a document, up to seq_length - 3 tokens (see chunks.py). In each epoch it is parted anew
    into A and B where a sentence begins, uniformly. With probability 1/2, B is then replaced by the second part of
    another chunk, from another document and of the same length, so that neither a length nor the way a part ends tells
    the label; where the data has none of that length, one of about that length is taken, cut to it.

    A share `masking_rate` of the tokens, at least one and at most `max_predictions`, is to be predicted: 80 % of them
    appear as [MASK], 10 % as a random ordinary token, 10 % unchanged. Everything drawn for an example depends on
    (seed, epoch, example) alone.

    Raises:
        InputError: a setting out of bounds, shards written with another vocabulary or one of special tokens alone,
            or fewer than two documents.
    """

    def __init__(
        self,
        shards: Shards,
        tokenizer: Tokenizer,
        seq_length: int,
        seed: int,
        *,
        masking_rate: float = 0.15,
        max_predictions: int | None = None,
    ) -> None:
        if not SHORTEST_SEQUENCE <= seq_length <= LONGEST_SEQUENCE:
            raise InputError(f"sequence length {seq_length}: must lie in [{SHORTEST_SEQUENCE}, {LONGEST_SEQUENCE}]")
        if not 0 < masking_rate < 1:
            raise InputError(f"masking_rate = {masking_rate}: must lie between 0 and 1, both excluded")
        if max_predictions is not None and max_predictions < 1:
            raise InputError(f"max_predictions = {max_predictions}: must be at least 1")
        shards.check_vocabulary(tokenizer)
        self.seq_length = seq_length
        self.seed = seed
        self.masking_rate = masking_rate
        self.max_predictions = max_predictions or seq_length
        self._marks = Marks.of(tokenizer)
        self._ordinary = ordinary_ids(tokenizer)
        self._tokens = Tokens([part.tokens for part in shards.parts])
        self._room = seq_length - NUM_MARKS
        self._chunks = chunks.cut(shards.parts, self._room)
        if not len(self._chunks) or self._chunks.document[0] == self._chunks.document[-1]:
            raise InputError(
                f"{shards.path}: holds {shards.num_documents} document{'' if shards.num_documents == 1 else 's'}; at "
                "least 2 of two tokens or more are needed, since a random next sentence comes from another document"
            )
        lengths = self._chunks.end[self._chunks.owner] - self._chunks.split
        self._by_length = np.argsort(lengths.astype(np.uint16), kind="stable")
        self._length_begins = np.concatenate([[0], np.cumsum(np.bincount(lengths, minlength=self._room + 1))])

    @property
    def num_examples(self) -> int:
        """Examples in one epoch."""
        return len(self._chunks)

    def batch(self, epochs: NDArray[np.int64], examples: NDArray[np.int64]) -> Batch:
        """B examples, each as it is in its epoch, both int64[B].

        Returns:
            input_ids, token_type_ids, attention_mask, int64[B, S]; masked_positions, int64[M], as b * S + s, ascending;
            masked_labels, int64[M]; next_sentence_label, int64[B]: 0 where B follows A, 1 where it is random.
            Targets: "mlm" M, "nsp" B.
        """
        words = random_words(self.seed, "pretraining", epochs, examples, _NUM_PAIR_WORDS + self.seq_length)
        pairs, label = self._pairs(np.asarray(examples, dtype=np.int64), words[:, :_NUM_PAIR_WORDS])
        positions, labels = self._mask(pairs, words[:, _NUM_PAIR_WORDS:])
        inputs = {
            "input_ids": pairs.input_ids,
            "token_type_ids": pairs.token_type_ids,
            "attention_mask": (~pairs.is_padding).astype(np.int64),
            "masked_positions": positions,
            "masked_labels": labels,
            "next_sentence_label": label,
        }
        return Batch(
            inputs={name: torch.from_numpy(array) for name, array in inputs.items()},
            num_targets={"mlm": len(labels), "nsp": len(label)},
            num_examples=len(label),
        )

    def _pairs(self, examples: Places, words: Words) -> tuple[Pairs, Places]:
        """The examples before masking, and their labels."""
        table = self._chunks
        first = table.first_split[examples]
        split = first + below(words[:, 0], table.first_split[examples + 1] - first)
        a_begin, b_begin = table.begin[examples], table.split[split]
        b_length = table.end[examples] - b_begin
        a_length = b_begin - a_begin
        label = below(words[:, 1], 2)
        rows = np.flatnonzero(label)
        other = self._elsewhere(table.document[examples[rows]], b_length[rows], words[rows, 2:])
        b_begin[rows] = table.split[other]
        b_length[rows] = np.minimum(b_length[rows], table.end[table.owner[other]] - table.split[other])
        return join(self._tokens, (a_begin, b_begin), (a_length, b_length), self.seq_length, self._marks), label

    def _elsewhere(self, document: Places, length: Places, words: Words) -> Places:
        """For each row a random split outside `document` with `length` tokens behind it, or about as many."""
        table = self._chunks
        begin, end = self._length_begins[length], self._length_begins[length + 1]
        found = np.full(len(length), -1)
        for turn, reach in enumerate(_REACHES):
            low, high = np.maximum(begin - reach, 0), np.minimum(end + reach, len(table.split))
            drawn = self._by_length[low + below(words[:, turn], high - low)]
            fits = (found < 0) & (table.document[table.owner[drawn]] != document)
            found[fits] = drawn[fits]
        if (left := np.flatnonzero(found < 0)).size:
            # Only a document that is most of the data gets here: any split outside it.
            own_begin = table.first_split[np.searchsorted(table.document, document[left], side="left")]
            own_end = table.first_split[np.searchsorted(table.document, document[left], side="right")]
            drawn = below(words[left, -1], len(table.split) - (own_end - own_begin))
            found[left] = drawn + np.where(drawn >= own_begin, own_end - own_begin, 0)
        return found

    def _mask(self, pairs: Pairs, words: Words) -> tuple[Places, Places]:
        """Changes `pairs.input_ids` in place; returns the flat positions to predict and what stood there."""
        lengths = pairs.is_text.sum(1)
        counts = np.clip(np.round(lengths * self.masking_rate).astype(np.int64), 1, self.max_predictions)
        # The smallest random keys of each row, with their positions in the low bits, so that keys never tie.
        column = np.arange(self.seq_length, dtype=np.uint64)
        keys = np.where(pairs.is_text, (words >> np.uint64(32)) << _POSITION_BITS | column, ~np.uint64(0))
        keys.sort(axis=1)
        chosen = np.arange(counts.max()) < counts[:, None]
        columns = (keys[:, : counts.max()] & np.uint64((1 << 16) - 1))[chosen].astype(np.int64)
        positions = np.sort(np.repeat(np.arange(len(counts)) * self.seq_length, counts) + columns)
        ids = pairs.input_ids.reshape(-1)
        labels = ids[positions]
        # The low half of the position's word, times ten: a digit that says what is shown, and the rest that says which.
        tenths = (words.reshape(-1)[positions] & _LOW_32) * np.uint64(10)
        digit = tenths >> np.uint64(32)
        random_tokens = self._ordinary[below((tenths & _LOW_32) << np.uint64(32), len(self._ordinary))]
        ids[positions] = np.where(digit < 8, self._marks.mask, np.where(digit < 9, random_tokens, labels))
        return positions, labels
