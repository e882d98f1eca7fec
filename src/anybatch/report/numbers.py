"""Numbers of a run folder as they can be counted on: finite, or None."""

import math
from typing import Any


def finite(value: Any) -> float | None:
    """`value` as a float; None for anything that is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def whole(value: Any) -> int | None:
    """`value` rounded to a whole number; None as for `finite`."""
    number = finite(value)
    return None if number is None else round(number)
