"""Sentences to token numbers; each word is looked up only once: several times the speed of `tokenizers`.

BERT's pipeline (normalize, split at white space and punctuation, WordPiece) never looks beyond a space or a
punctuation mark. So the tokens of a sentence are those of its words and marks, one after the other. Text repeats its
words: with a table of known words, the tokenizer sees few. If a tokenizer is not of this kind, it encodes every
sentence.
"""

import json
import re
from collections import defaultdict
from itertools import count, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from anybatch.data.sentences import in_batches
from anybatch.errors import InputError

# The largest number of words in the table; then the table is begun again. About 50 MB in each process.
_MOST_WORDS = 1 << 18
# Words are Python objects of some 60 bytes: the words of a huge document must not be held all at once.
_CHARACTERS_AT_ONCE = 1 << 20

# Marks that BERT always takes for separate words: those of ASCII, and of print.
_MARKS = r"!-/:-@\[-`{-~“”‘’«»–—…"
_SENTENCE_END = "\n"
_WORD = re.compile(rf"[^ \n{_MARKS}]+|[{_MARKS}]|\n")


class Encoder:
    """Encodes as `tokenizer.encode(sentence, add_special_tokens=False).ids` does, for sentences on one line each."""

    def __init__(self, tokenizer: Tokenizer, *, by_word: bool | None = None) -> None:
        self._tokenizer = tokenizer
        self._dtype = token_dtype(tokenizer)
        self.by_word = looks_at_words_alone(tokenizer) if by_word is None else by_word
        self._forget()

    def _forget(self) -> None:
        # The place of each word in the table, a new one at its end. The end of a sentence is first, and has no token.
        self._places: dict[str, int] = defaultdict(count(1).__next__, {_SENTENCE_END: 0})
        self._tokens: NDArray[Any] = np.zeros(0, dtype=self._dtype)
        # Where the tokens of each word begin in the table, and how many there are.
        self._begins = np.zeros(1, dtype=np.int64)
        self._lengths = np.zeros(1, dtype=np.int64)

    def encode(self, sentences: list[str]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Returns the tokens of S sentences one after the other, and the number of tokens of each, int64[S].

        InputError: the tokenizer refuses one.
        """
        parts = [self._encode(part) for part in in_batches(sentences, len, _CHARACTERS_AT_ONCE)]
        tokens, lengths = zip(*parts, strict=True) if parts else ((), ())
        return np.concatenate([np.zeros(0, self._dtype), *tokens]), np.concatenate([np.zeros(0, np.int64), *lengths])

    def _encode(self, sentences: list[str]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        if not self.by_word:
            return self._ask(sentences)
        words = _WORD.findall(_SENTENCE_END.join([*sentences, ""]))
        numbers = np.fromiter(map(self._places.__getitem__, words), dtype=np.int64, count=len(words))
        if num_new := len(self._places) - len(self._lengths):
            tokens, lengths = self._ask([*islice(reversed(self._places), num_new)][::-1])
            self._tokens = np.concatenate([self._tokens, tokens])
            self._lengths = np.concatenate([self._lengths, lengths])
            self._begins = np.cumsum(self._lengths) - self._lengths
        lengths = self._lengths[numbers]
        ends = np.cumsum(lengths)
        tokens = self._tokens[np.arange(ends[-1]) + np.repeat(self._begins[numbers] - (ends - lengths), lengths)]
        if len(self._places) > _MOST_WORDS:
            self._forget()
        return tokens, np.diff(ends[numbers == 0], prepend=0)

    def _ask(self, texts: list[str]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        try:
            encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        # The library raises plain Exception for anything it cannot encode.
        except Exception as error:
            raise InputError(
                f"the tokenizer cannot encode the text: {error}; use another, or have one trained"
            ) from None
        ids = [encoding.ids for encoding in encodings]
        lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        flat = np.fromiter((token for each in ids for token in each), dtype=self._dtype, count=int(lengths.sum()))
        return flat, lengths


def token_dtype(tokenizer: Tokenizer) -> type[np.unsignedinteger[Any]]:
    """Returns uint16 if every token's number fits, otherwise uint32."""
    return np.uint16 if max(tokenizer.get_vocab().values()) < 2**16 else np.uint32


def looks_at_words_alone(tokenizer: Tokenizer) -> bool:
    """Returns whether the tokens of text are certainly those of its words and punctuation marks, in order."""
    parts = json.loads(tokenizer.to_str())
    return (
        tokenizer.encode_special_tokens
        and all(token.special for token in tokenizer.get_added_tokens_decoder().values())
        and parts["model"].get("type") in ("WordPiece", "WordLevel")
        and (parts["normalizer"] is None or parts["normalizer"]["type"] == "BertNormalizer")
        and parts["pre_tokenizer"] is not None
        and parts["pre_tokenizer"]["type"] == "BertPreTokenizer"
    )
