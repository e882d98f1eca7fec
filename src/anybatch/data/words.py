"""Sentences to token numbers; each word is looked up only once: several times the speed of `tokenizers`.

BERT's pipeline (normalize, split at white space and punctuation, WordPiece) never looks beyond a space or a
punctuation mark. So the tokens of a sentence are those of its words and marks, one after the other. Text repeats its
words: with a table of known words, the tokenizer sees few. If a tokenizer is not of this kind, it encodes every
sentence.
"""

import json
import re
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


class _Numbers(dict[str, int]):
    """Maps a word to its place in the table; a new word gets the next place and is remembered as new."""

    def __init__(self) -> None:
        super().__init__()
        # The end of a sentence has no token.
        self.fresh: list[str] = [_SENTENCE_END]
        self[_SENTENCE_END] = 0

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self)
        self.fresh.append(word)
        return number


class Encoder:
    """Encodes as `tokenizer.encode(sentence, add_special_tokens=False).ids` does, for sentences on one line each."""

    def __init__(self, tokenizer: Tokenizer, *, by_word: bool | None = None) -> None:
        self._tokenizer = tokenizer
        self._dtype = token_dtype(tokenizer)
        self.by_word = looks_at_words_alone(tokenizer) if by_word is None else by_word
        self._forget()

    def _forget(self) -> None:
        self._numbers = _Numbers()
        self._tokens: NDArray[Any] = np.zeros(0, dtype=self._dtype)
        self._begins: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._lengths: NDArray[np.int64] = np.zeros(0, dtype=np.int64)

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
        numbers = np.fromiter(map(self._numbers.__getitem__, words), dtype=np.int64, count=len(words))
        self._learn()
        lengths = self._lengths[numbers]
        ends = np.cumsum(lengths)
        places = np.arange(ends[-1]) + np.repeat(self._begins[numbers] - (ends - lengths), lengths)
        tokens = self._tokens[places]
        sentence_ends = ends[numbers == self._numbers[_SENTENCE_END]]
        if len(self._numbers) > _MOST_WORDS:
            self._forget()
        return tokens, np.diff(sentence_ends, prepend=0)

    def _learn(self) -> None:
        """Gets the tokens of the new words from the tokenizer, and adds them to the table."""
        fresh = self._numbers.fresh
        if not fresh:
            return
        tokens, lengths = self._ask(fresh)
        begins = len(self._tokens) + np.cumsum(lengths) - lengths
        self._tokens = np.concatenate([self._tokens, tokens])
        self._begins = np.concatenate([self._begins, begins])
        self._lengths = np.concatenate([self._lengths, lengths])
        self._numbers.fresh = []

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
