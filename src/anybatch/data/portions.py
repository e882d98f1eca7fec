"""Processes one portion of raw text, in any process: parses, cleans, filters, and hashes or encodes it."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anybatch.data import duplicates, vocabulary
from anybatch.data.raw import Place, Portion
from anybatch.data.sentences import clean, split_sentences
from anybatch.data.text import parse
from anybatch.data.words import Encoder
from anybatch.errors import InputError


@dataclass(frozen=True)
class LengthFilter:
    """Skips documents of fewer or more characters, after cleaning; 0 and None skip none; then a blank one fails."""

    fewest: int = 0
    most: int | None = None

    def __post_init__(self) -> None:
        if self.most is not None and self.most < self.fewest:
            raise InputError(
                f"documents of at least {self.fewest} and at most {self.most} characters: there are none; "
                "raise --max-characters or lower --min-characters"
            )

    def texts(self, portion: Portion) -> list[str]:
        """Returns the cleaned documents of a portion, "" in place of a skipped one."""
        found = [clean(document) for document in parse(portion, keep_blank=self.fewest > 0)]
        return [text if self.fewest <= len(text) <= (self.most or len(text)) else "" for text in found]


@dataclass(frozen=True)
class EncodedPortion:
    """D documents, encoded.

    `num_sentences` int64[D] counts the sentences of each with a token, 0 if the document is skipped. Then the lengths
    of all sentences together, and their tokens. `num_filtered` were skipped because of their length.
    """

    end: Place
    num_sentences: NDArray[np.int64]
    sentence_lengths: NDArray[np.int64]
    tokens: NDArray[Any]
    num_filtered: int


def hash_portion(lengths: LengthFilter, portion: Portion) -> tuple[Place, duplicates.Hashes]:
    """Returns the portion's end, and a hash for each document, uint64[D, 2]."""
    return portion.end, duplicates.hashes(lengths.texts(portion))


def encode_portion(tokenizer: Path, fingerprint: str, kept: LengthFilter, portion: Portion) -> EncodedPortion:
    """Encodes a portion with the tokenizer.json at `tokenizer`, which has this fingerprint."""
    texts = kept.texts(portion)
    sentences = [split_sentences(text) for text in texts]
    # The space between two sentences belongs to the second; WordPiece has no token for it, characters do.
    spaced = [f" {each}" if number else each for part in sentences for number, each in enumerate(part)]
    tokens, lengths = _encoder(tokenizer, fingerprint).encode(spaced)
    owners = np.repeat(np.arange(len(texts)), [len(part) for part in sentences])
    filled = lengths > 0
    return EncodedPortion(
        portion.end,
        np.bincount(owners[filled], minlength=len(texts)),
        lengths[filled],
        tokens,
        texts.count("") if kept != LengthFilter() else 0,
    )


@lru_cache(maxsize=1)
def _encoder(tokenizer: Path, fingerprint: str) -> Encoder:
    """Returns an encoder that is kept from portion to portion, with the words that it has met."""
    return Encoder(vocabulary.load(tokenizer))
