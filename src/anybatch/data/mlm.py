"""BERT's pretraining examples: masked words and a relation of sentences, drawn on the fly.

    next_sentence    [CLS] A [SEP] B [SEP]    label 0: B follows A; label 1: B is from another document
    sentence_order   [CLS] A [SEP] B [SEP]    label 0: B follows A; label 1: A follows B
    full_sentences   [CLS] A [SEP]            no label

Sources: Devlin et al. 2019, arXiv 1810.04805, section 3.1; Lan et al. 2020, arXiv 1909.11942, section 3.1 (sentence
order); Liu et al. 2019, arXiv 1907.11692, section 4.2 (DOC-SENTENCES: text of one document, no relation).
"""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import numpy as np
import torch
from annotated_types import Gt, Interval, Lt
from numpy.typing import NDArray
from tokenizers import Tokenizer

from anybatch.data import packing
from anybatch.data.batch import Batch
from anybatch.data.masking import Masking
from anybatch.data.pairs import NUM_MARKS, Pairs, Places, Tokens, join
from anybatch.data.sampling import Words, below, random_words
from anybatch.data.shards import Shard, Shards
from anybatch.data.vocabulary import special_ids
from anybatch.errors import InputError

SHORTEST_SEQUENCE = 16
LONGEST_SEQUENCE = 1 << 15

# The distance from the wanted length, in places of the list sorted by length, within which a part of another document
# is chosen.
_REACHES = (0, 0, 0, 16, 128, 1024)
_NUM_PAIR_WORDS = 3 + len(_REACHES)

Objective = Literal["next_sentence", "sentence_order", "full_sentences"]


@dataclass(frozen=True, kw_only=True)
class MlmSettings:
    """What is drawn for a pretraining example."""

    masking_rate: Annotated[float, Gt(0), Lt(1)] = 0.15
    """The share of a sequence's tokens that are to be predicted."""
    whole_words: bool = False
    """Mask all pieces of a word, or none."""
    objective: Objective = "next_sentence"
    """Besides masked words: next_sentence (NSP), sentence_order (SOP), or full_sentences, which has no pairs."""
    short_seq_prob: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """The share of the examples that are cut to a random length."""
    packed: bool = False
    """Let several examples share a row, each of which sees only itself; no padding is computed."""


class PretrainingSource:
    """Pretraining examples of `seq_length` tokens from shards.

    An example is a chunk of a document, up to seq_length - 3 tokens (see `cut`). In each epoch it is split again
    into A and B at the begin of a sentence, chosen uniformly. With probability 1/2, B is then replaced by the second
    part of another chunk, from another document and of the same length; so neither a length nor the way a part ends
    reveals the label. If the data have none of this length, one of about this length is taken, cut to it.

    The other objectives use the same chunks: `sentence_order` exchanges A and B instead; `full_sentences` takes the
    whole chunk, up to seq_length - 2 tokens.

    With probability `short_seq_prob` an example is cut to a random length, on both sides of its split, as BERT does
    for 10 % of its examples. masking.py chooses the words to predict, and how they appear.

    If `packed`, several examples share a row of `seq_length` tokens, and each sees only itself: see packing.py. All
    random choices for an example depend only on (seed, epoch, example).

    Raises:
        InputError: a setting out of bounds, shards written with another vocabulary or one that has only special
            tokens, or fewer than two documents.
    """

    def __init__(
        self,
        shards: Shards,
        tokenizer: Tokenizer,
        seq_length: int,
        seed: int,
        settings: MlmSettings = MlmSettings(),
        max_predictions: int | None = None,
    ) -> None:
        objective = settings.objective
        if not SHORTEST_SEQUENCE <= seq_length <= LONGEST_SEQUENCE:
            raise InputError(f"sequence length {seq_length}: must lie in [{SHORTEST_SEQUENCE}, {LONGEST_SEQUENCE}]")
        if objective not in get_args(Objective):
            raise InputError(f"objective = {objective!r}: must be one of {', '.join(get_args(Objective))}")
        if not 0 <= settings.short_seq_prob <= 1:
            raise InputError(f"short_seq_prob = {settings.short_seq_prob}: must lie in [0, 1]")
        shards.check_vocabulary(tokenizer)
        self._shards = shards
        self.seq_length = seq_length
        self.seed = seed
        self.settings = settings
        self._marks = special_ids(tokenizer)
        self._masking = Masking(
            tokenizer,
            settings.masking_rate,
            seq_length if max_predictions is None else max_predictions,
            settings.whole_words,
        )
        self._tokens = Tokens([part.tokens for part in shards.parts])
        self._room = seq_length - (NUM_MARKS - 1 if objective == "full_sentences" else NUM_MARKS)
        self._chunks = cut(shards.parts, self._room)
        self.num_examples = len(self._chunks)
        if not len(self._chunks) or self._chunks.document[0] == self._chunks.document[-1]:
            raise InputError(
                f"{shards.path}: holds {shards.num_documents} document{'' if shards.num_documents == 1 else 's'}; at "
                "least 2 of two tokens or more are needed, since a random next sentence comes from another document"
            )
        lengths = self._chunks.end[self._chunks.owner] - self._chunks.split
        self._by_length = np.argsort(lengths.astype(np.uint16), kind="stable")
        self._length_begins = np.concatenate([[0], np.cumsum(np.bincount(lengths, minlength=self._room + 1))])

    def batch(self, epochs: NDArray[np.int64], examples: NDArray[np.int64]) -> Batch:
        """Returns B examples, each as in its epoch; both arguments are int64[B].

        Returns:
            input_ids, token_type_ids, attention_mask, int64[B, S]; masked_positions, int64[M], as b * S + s, ascending;
            masked_labels, int64[M]; next_sentence_label, int64[B], where there is one: 0 where B follows A.
            Packed, B is the number of rows, and what packing.py adds comes on top; labels are in the order of the
            examples, masked words in that of their places.
            Targets: "mlm" M; "nsp" or "sop" the number of examples.
        """
        examples = np.asarray(examples, dtype=np.int64)
        words = random_words(self.seed, "pretraining", epochs, examples, _NUM_PAIR_WORDS + self.seq_length)
        short = (
            random_words(self.seed, "short sequences", epochs, examples, 2) if self.settings.short_seq_prob else None
        )
        pairs, label = self._pairs(examples, words[:, :_NUM_PAIR_WORDS], short)
        self._shards.check_tokens(pairs.input_ids)
        positions, labels = self._masking.apply(pairs, words[:, _NUM_PAIR_WORDS:])
        inputs = {**pairs.inputs, "masked_positions": positions, "masked_labels": labels}
        if self.settings.packed:
            inputs = packing.pack(inputs)
        num_targets = {"mlm": len(labels)}
        if self.settings.objective != "full_sentences":
            inputs["next_sentence_label"] = label
            num_targets["nsp" if self.settings.objective == "next_sentence" else "sop"] = len(label)
        return Batch({name: torch.from_numpy(array) for name, array in inputs.items()}, num_targets, len(examples))

    def _pairs(self, examples: Places, words: Words, short: Words | None) -> tuple[Pairs, Places]:
        """Returns the examples before masking, and their labels."""
        table = self._chunks
        first = table.first_split[examples]
        split = first + below(words[:, 0], table.first_split[examples + 1] - first)
        a_begin, b_begin = table.begin[examples], table.split[split]
        b_length = table.end[examples] - b_begin
        a_length = b_begin - a_begin
        if short is not None:
            a_begin, a_length, b_length = self._shortened(a_begin, a_length, b_length, short)
        if self.settings.objective == "full_sentences":
            whole = (a_begin, b_begin), (a_length + b_length, np.zeros_like(b_length))
            return join(self._tokens, *whole, self.seq_length, self._marks), np.zeros_like(a_begin)
        label = below(words[:, 1], 2)
        if self.settings.objective == "sentence_order":
            starts = np.where(label, b_begin, a_begin), np.where(label, a_begin, b_begin)
            lengths = np.where(label, b_length, a_length), np.where(label, a_length, b_length)
            return join(self._tokens, starts, lengths, self.seq_length, self._marks), label
        rows = np.flatnonzero(label)
        other = self._elsewhere(table.document[examples[rows]], b_length[rows], words[rows, 2:])
        b_begin[rows] = table.split[other]
        b_length[rows] = np.minimum(b_length[rows], table.end[table.owner[other]] - table.split[other])
        return join(self._tokens, (a_begin, b_begin), (a_length, b_length), self.seq_length, self._marks), label

    def _elsewhere(self, document: Places, length: Places, words: Words) -> Places:
        """Returns for each row a random split outside `document` with `length` tokens after it, or about as many."""
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

    def _shortened(
        self, a_begin: Places, a_length: Places, b_length: Places, words: Words
    ) -> tuple[Places, Places, Places]:
        """Removes some of A's first tokens and of B's last tokens, in the rows that are to be short."""
        is_short = below(words[:, 0], 1 << 32) < self.settings.short_seq_prob * (1 << 32)
        total = a_length + b_length
        wanted = np.where(is_short, 2 + below(words[:, 1], total - 1), total)
        a_wanted = np.clip(a_length * wanted // total, 1, wanted - 1)
        return a_begin + a_length - a_wanted, a_wanted, wanted - a_wanted


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
