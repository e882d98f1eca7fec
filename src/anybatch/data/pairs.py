"""Joins two runs of tokens into one input: [CLS] A [SEP] B [SEP], padded."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_MARKS = 3

Places = NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """B inputs of S tokens: `input_ids` and `token_type_ids` int64[B, S]; `is_text`, `is_padding` bool[B, S]."""

    input_ids: NDArray[np.int64]
    token_type_ids: NDArray[np.int64]
    is_text: NDArray[np.bool_]
    is_padding: NDArray[np.bool_]

    @property
    def inputs(self) -> dict[str, NDArray[np.int64]]:
        """Returns what a model reads: input_ids, token_type_ids and attention_mask, int64[B, S]."""
        mask = (~self.is_padding).astype(np.int64)
        return {"input_ids": self.input_ids, "token_type_ids": self.token_type_ids, "attention_mask": mask}


class Tokens:
    """Several token arrays, indexed as one."""

    def __init__(self, arrays: list[NDArray[Any]]) -> None:
        self._arrays = arrays
        self._begins = np.cumsum([0, *map(len, arrays)])

    def __getitem__(self, places: Places) -> NDArray[np.int64]:
        """Returns the tokens at `places`, int64[N]."""
        if len(self._arrays) == 1:
            return self._arrays[0][places].astype(np.int64)
        found = np.empty(len(places), dtype=np.int64)
        owners = np.searchsorted(self._begins, places, side="right") - 1
        for owner in np.unique(owners):
            here = owners == owner
            found[here] = self._arrays[owner][places[here] - self._begins[owner]]
        return found


def join(
    tokens: Tokens, starts: tuple[Places, Places], lengths: tuple[Places, Places], seq_length: int, ids: dict[str, int]
) -> Pairs:
    """Joins the parts of tokens starts .. starts + lengths - 1, int64[B] each, first A then B, into pairs.

    `ids` are the numbers of the special tokens (`vocabulary.special_ids`).
    token_type_ids are 0 up to the first [SEP], 1 up to the second, 0 in the padding. If B is empty, it has no [SEP].
    """
    column = np.arange(seq_length)
    a_start, b_start = (start[:, None] for start in starts)
    middle = lengths[0][:, None] + 1
    last = np.where(lengths[1] > 0, lengths[1] + 1, 0)[:, None] + middle
    in_b = (column > middle) & (column < last)
    is_text = ((column > 0) & (column < middle)) | in_b
    input_ids = np.full((len(starts[0]), seq_length), ids["[PAD]"], dtype=np.int64)
    places = np.where(in_b, b_start + column - middle - 1, a_start + column - 1)
    input_ids[is_text] = tokens[places[is_text]]
    input_ids[:, 0] = ids["[CLS]"]
    np.put_along_axis(input_ids, middle, ids["[SEP]"], axis=1)
    np.put_along_axis(input_ids, last, ids["[SEP]"], axis=1)
    is_second = (column > middle) & (column <= last)
    return Pairs(input_ids, is_second.astype(np.int64), is_text, column > last)
