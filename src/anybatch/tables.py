"""Tables of text: columns that end below each other."""

from collections.abc import Sequence


def aligned(table: Sequence[Sequence[str]], left: int = 0) -> list[str]:
    """Rows whose columns end below each other; the first `left` columns begin below each other instead."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            f"{cell:{'<' if k < left else '>'}{width}}" for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]
