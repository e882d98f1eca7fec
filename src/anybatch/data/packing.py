"""Several sequences in one row, none of which sees another: they fill what padding would waste.

Packing changes only the layout. The sequences of a batch, their targets and their losses stay the same. A row's tokens
carry the number of their sequence (attention is block-diagonal), and positions begin at 0 in each sequence.
"""

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.int64]]


def pack(inputs: Arrays) -> Arrays:
    """Packs B padded sequences of S tokens into R <= B rows of S, by first fit, the longest first.

    Args:
        inputs: input_ids, token_type_ids, attention_mask, int64[B, S]; masked_positions, b * S + s, and masked_labels,
            int64[M].

    Returns:
        The same for the rows. attention_mask is the number of a token's sequence in its row, from 1, and 0 for
        padding; position_ids, int64[R, S]; first_positions, int64[B]: the place r * S + s of each sequence's first
        token.
    """
    length = inputs["attention_mask"].sum(1)
    width = inputs["attention_mask"].shape[1]
    row, offset, number = _first_fit(length, width)
    place = row * width + offset
    columns = np.arange(width)
    is_token = columns < length[:, None]
    targets = (place[:, None] + columns)[is_token]
    size = (int(row.max()) + 1, width)
    packed: Arrays = {}
    numbers = np.broadcast_to(number[:, None], is_token.shape)
    positions = np.broadcast_to(columns, is_token.shape)
    sources = {
        "input_ids": inputs["input_ids"],
        "token_type_ids": inputs["token_type_ids"],
        "attention_mask": numbers,
        "position_ids": positions,
    }
    # Any padded place holds the padding token; if none is padded, none is needed.
    padding = inputs["input_ids"][~is_token]
    for name, values in sources.items():
        filler = padding[0] if name == "input_ids" and len(padding) else 0
        packed[name] = np.full(size, filler, dtype=np.int64)
        packed[name].reshape(-1)[targets] = values[is_token]
    owner, column = np.divmod(inputs["masked_positions"], width)
    masked = place[owner] + column
    order = np.argsort(masked, kind="stable")
    packed["masked_positions"] = masked[order]
    packed["masked_labels"] = inputs["masked_labels"][order]
    packed["first_positions"] = place
    return packed


def _first_fit(length: NDArray[np.int64], width: int) -> tuple[NDArray[np.int64], ...]:
    """Returns each sequence's row, its first column there, and its number in the row, from 1."""
    row, offset, number = np.zeros((3, len(length)), dtype=np.int64)
    filled: list[int] = []
    counts: list[int] = []
    for each in np.argsort(-length, kind="stable").tolist():
        needed = int(length[each])
        found = next((at for at, used in enumerate(filled) if used + needed <= width), len(filled))
        if found == len(filled):
            filled.append(0)
            counts.append(0)
        row[each], offset[each] = found, filled[found]
        filled[found] += needed
        counts[found] += 1
        number[each] = counts[found]
    return row, offset, number
