"""Numbers: finite or None, and in a form for people."""

import math
from collections.abc import Mapping
from typing import Any

_DAY = 86_400


def finite(value: Any) -> float | None:
    """Returns `value` as a float; None for anything that is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def whole(value: Any) -> int | None:
    """Returns `value` rounded to a whole number; None as for `finite`."""
    number = finite(value)
    return None if number is None else round(number)


def null_for_nonfinite(value: Any) -> Any:
    """Returns `value` with None for NaN and infinity, which JSON cannot hold; mappings become dicts, tuples lists."""
    if isinstance(value, Mapping):
        return {name: null_for_nonfinite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [null_for_nonfinite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def hyperparameter(value: Any) -> str:
    """Writes a hyperparameter to six digits; several numbers, such as betas, as '0.9 0.999'."""
    return " ".join(f"{each:.6g}" for each in value) if isinstance(value, list | tuple) else f"{value:.6g}"


def duration(seconds: float) -> str:
    """Writes seconds as a person says them.

    Example:
        >>> duration(0.25), duration(48.2), duration(185), duration(7800), duration(400_000), duration(4e8)
        ('0.2 s', '48 s', '3 min 05 s', '2 h 10 min', '4.6 days', '13 years')
    """
    if seconds < 1:
        return f"{seconds:.1f} s"
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02d} s"
    if rounded < 3 * _DAY:
        return f"{rounded // 3600} h {rounded % 3600 // 60:02d} min"
    return f"{seconds / _DAY:.1f} days" if seconds < 1000 * _DAY else f"{seconds / (365 * _DAY):,.0f} years"
