"""Numbers and lists in a form for readers; every function takes None for 'unknown'."""

import re
from collections.abc import Callable, Collection, Iterable
from typing import Any

from anybatch import numbers

# The task of a model: in a column, as a heading, and as a sentence's end.
GUESSED = {
    "images": ("top-1", "Images told right", "held-out images whose class comes first (top-1)"),
    "causal": ("next tokens", "Next tokens guessed right", "held-out tokens that are guessed right from those before"),
    "pretraining": ("masked words", "Masked words guessed right", "masked words guessed right in held-out text"),
    "elsewhere": ("accuracy", "Accuracy on held-out data", "held-out examples told right, as the log has it"),
}
UNKNOWN = "–"
THIN = "\u202f"
# Between a number and its unit.
_SPACE = re.compile(r"(?<=\d) ")


def times(factor: float) -> str:
    """A multiple of the reference batch, such as four times."""
    return f"×{factor:.3g}" if factor < 1000 else f"×{factor:,.0f}"


def count(number: float | None) -> str:
    """A whole number with its thousands apart: 24000 -> '24,000'."""
    return UNKNOWN if number is None else f"{number:,.0f}"


def short(number: float) -> str:
    """A number for an axis: 24000 -> '24k'."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def loss(number: float | None) -> str:
    """Three significant places where a loss is small, two decimals where it is usual."""
    if number is None:
        return UNKNOWN
    return f"{number:.2f}" if 0.1 <= abs(number) < 1000 or number == 0 else f"{number:.3g}"


def rate(number: float | None) -> str:
    """A learning rate: 0.0028284 -> '0.00283'."""
    return UNKNOWN if number is None else f"{number:.3g}"


def score(number: float | None) -> str:
    """A score in per cent that is already multiplied by 100."""
    return UNKNOWN if number is None else f"{number:.1f}"


def percent(share: float | None) -> str:
    """A share of 1 in per cent, without a sign: 0.117 -> '11.7 %'."""
    return UNKNOWN if share is None else f"{share * 100:.1f}{THIN}%"


def gap(share: float | None) -> str:
    """A signed difference in per cent, one decimal below 10: 0.031 -> '+3.1 %'."""
    if share is None:
        return UNKNOWN
    if share > 10:
        return f"over +1,000{THIN}%"
    value = abs(share) * 100
    # 5 % is the report's bound: a value just beyond it must not read as 5.0.
    close = value > 5 + 1e-6 and f"{value:.1f}" == "5.0"
    digits = f"{value:.2f}" if close else f"{value:.1f}" if value < 9.95 else f"{value:,.0f}"
    sign = "±" if float(digits.replace(",", "")) == 0 else "+" if share > 0 else "−"
    return f"{sign}{digits}{THIN}%"


def kept(share: float) -> str:
    """A share of 1 that was kept, in per cent, one decimal: 0.971 -> '97.1 %'."""
    # 95 % is the report's bound: a value just below it must not read as 95.0.
    digits = f"{share * 100:.2f}" if 0.9495 <= share < 0.95 - 1e-9 else f"{max(0.0, share) * 100:.1f}"
    return f"{digits}{THIN}%"


def share_of_one(share: float) -> str:
    """A share in whole per cent: 0.05 -> '5 %'."""
    return f"{share:.0%}".replace("%", f"{THIN}%")


def text(value: Any, most: int = 160) -> str:
    """`value` as one printable line of bounded length; the page escapes it for HTML."""
    line = "".join(letter if letter.isprintable() else " " for letter in str(value))
    return line if len(line) <= most else line[: most - 1] + "…"


def spread(values: Collection[float], shown: Callable[[float], str]) -> str:
    """Returns the smallest and the largest of several values, in brackets; nothing if they read alike."""
    ends = [shown(end) for end in (min(values), max(values))]
    return f" ({ends[0]} to {ends[1]})" if ends[0] != ends[1] else ""


def duration(seconds: float | None) -> str:
    """Seconds as '48 s', '3 min 05 s' or '2 h 10 min'."""
    return UNKNOWN if seconds is None else _SPACE.sub(THIN, numbers.duration(seconds))


def listed(words: Iterable[str], last: str = "and") -> str:
    """'a', 'a and b', 'a, b and c'."""
    items = list(words)
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}" if items else ""


def plural(number: int, noun: str) -> str:
    """'1 run', '3 runs'."""
    return f"{count(number)} {noun}" + ("" if number == 1 else "s")
