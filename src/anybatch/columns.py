"""Tables of text with aligned columns."""

from collections.abc import Sequence


def aligned(table: Sequence[Sequence[str]], left: int = 0) -> list[str]:
    """Aligns the columns of rows to the right; the first `left` columns to the left."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            f"{cell:{'<' if k < left else '>'}{width}}" for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]
