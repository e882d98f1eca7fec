"""Chooses the words of an example to predict, and how they appear.

Source: Devlin et al. 2019, arXiv 1810.04805, section 3.1 and appendix A.1; whole words: the authors' code of May 2019.
"""

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from anybatch.data.pairs import Pairs, Places
from anybatch.data.sampling import Words, below
from anybatch.data.vocabulary import continued_ids, ordinary_ids, special_ids
from anybatch.errors import InputError

_POSITION_BITS = np.uint64(16)
_LOW_32 = np.uint64(0xFFFFFFFF)
_NEVER = ~np.uint64(0)


class Masking:
    """A share `rate` of the tokens, at least one and at most `most`, is to be predicted: 80 % of them appear as [MASK],
    10 % as a random ordinary token, 10 % unchanged.

    With `whole_words`, a token that continues a word ('##ing') is predicted if, and only if, the token before it is.
    Words are taken in a random order, each word that fits into the rest of the count. If the first word does not fit,
    only its first tokens are taken.

    Raises:
        InputError: a rate outside (0, 1), fewer than one prediction, or a vocabulary that has only special tokens.
    """

    def __init__(self, tokenizer: Tokenizer, rate: float, most: int, whole_words: bool) -> None:
        if not 0 < rate < 1:
            raise InputError(f"masking_rate = {rate}: must lie between 0 and 1, both excluded")
        if most < 1:
            raise InputError(f"max_predictions = {most}: must be at least 1")
        self.rate = rate
        self.most = most
        self.whole_words = whole_words
        self._mask = special_ids(tokenizer)["[MASK]"]
        self._ordinary = ordinary_ids(tokenizer)
        self._continued = continued_ids(tokenizer)

    def apply(self, pairs: Pairs, words: Words) -> tuple[Places, Places]:
        """Changes `pairs.input_ids` in place, by random words uint64[B, S].

        Returns:
            The places to predict, b * S + s ascending, and their true tokens, int64[M] both.
        """
        counts = np.clip(np.round(pairs.is_text.sum(1) * self.rate).astype(np.int64), 1, self.most)
        positions = self._whole(pairs, words, counts) if self.whole_words else self._tokens(pairs, words, counts)
        ids = pairs.input_ids.reshape(-1)
        labels = ids[positions]
        # The low half of the position's random word, times ten: one digit decides the kind of what is shown, the rest
        # which token.
        tenths = (words.reshape(-1)[positions] & _LOW_32) * np.uint64(10)
        digit = tenths >> np.uint64(32)
        random_tokens = self._ordinary[below((tenths & _LOW_32) << np.uint64(32), len(self._ordinary))]
        ids[positions] = np.where(digit < 8, self._mask, np.where(digit < 9, random_tokens, labels))
        return positions, labels

    def _tokens(self, pairs: Pairs, words: Words, counts: Places) -> Places:
        keys = _sorted_keys(pairs.is_text, words)
        chosen = np.arange(counts.max()) < counts[:, None]
        columns = _columns(keys[:, : counts.max()])[chosen]
        return np.sort(np.repeat(np.arange(len(counts)) * words.shape[1], counts) + columns)

    def _whole(self, pairs: Pairs, words: Words, counts: Places) -> Places:
        """Steps through the words of all rows at once, in the order of their random keys."""
        num_rows, width = words.shape
        column = np.arange(width)
        begins = pairs.is_text & ~self._continued[pairs.input_ids]
        # The first token of a part begins a word in any case: a part may be cut in the middle of one.
        begins[:, 1:] |= pairs.is_text[:, 1:] & ~pairs.is_text[:, :-1]
        # The end of the word at each column: the next column that begins a word or is no text.
        stops = np.where(begins | ~pairs.is_text, column, width)
        ends = np.minimum.accumulate(stops[:, ::-1], axis=1)[:, ::-1]
        ends = np.concatenate([ends[:, 1:], np.full((num_rows, 1), width)], axis=1)
        keys = _sorted_keys(begins, words)
        rows = np.arange(num_rows)
        left = counts.copy()
        starts, lengths = [], []
        for place in range(width):
            key = keys[:, place]
            going = (left > 0) & (key != _NEVER)
            if not going.any():
                break
            start = np.where(going, _columns(key), 0)
            length = ends[rows, start] - start
            if place == 0:
                length = np.minimum(length, left)
            length = np.where(going & (length <= left), length, 0)
            left -= length
            starts.append(rows * width + start)
            lengths.append(length)
        flat, sizes = np.concatenate(starts), np.concatenate(lengths)
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return np.sort(np.repeat(flat, sizes) + within)


def _sorted_keys(candidates: NDArray[np.bool_], words: Words) -> Words:
    """Returns each row's random keys of its candidates, ascending; the low bits hold the column, so keys never tie."""
    column = np.arange(words.shape[1], dtype=np.uint64)
    keys = np.where(candidates, (words >> np.uint64(32)) << _POSITION_BITS | column, _NEVER)
    keys.sort(axis=1)
    return keys


def _columns(keys: Words) -> NDArray[np.int64]:
    return (keys & np.uint64((1 << 16) - 1)).astype(np.int64)
