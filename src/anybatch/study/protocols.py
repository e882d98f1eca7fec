"""The points that a tuning protocol tries: learning rates in steps of 1-2-5, or points that fill a box evenly."""

import math
from collections.abc import Mapping, Sequence

from anybatch.errors import InputError

Range = tuple[float, float]

_PRIMES = (2, 3, 5, 7, 11, 13)


def grid(span: Range) -> list[float]:
    """Returns the numbers 1, 2, 5 times powers of ten from `span[0]` to `span[1]`.

    Example:
        >>> grid((1e-3, 2e-2))
        [0.001, 0.002, 0.005, 0.01, 0.02]
    """
    low, high = _checked("optimizer.lr", span)
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    rates = [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]
    # A computed bound may miss its own digit by rounding.
    return [rate for rate in rates if low * (1 - 1e-9) <= rate <= high * (1 + 1e-9)]


def quasirandom(ranges: Mapping[str, Range], count: int) -> list[dict[str, float]]:
    """Returns `count` points of the Halton sequence, each range covered evenly on a logarithmic scale.

    The points of the unit cube are the same for every entrant. The first 20 are on a line, and are left out.

    Source: Dahl et al. 2023 (AlgoPerf), arXiv 2306.07179, section 4.4, for the use of quasirandom search.
    """
    if len(ranges) > len(_PRIMES):
        raise InputError(f"a quasirandom search over {len(ranges)} ranges: at most {len(_PRIMES)} are covered evenly")
    bounds = {name: _checked(name, span) for name, span in ranges.items()}
    points = []
    for index in range(21, 21 + count):
        point = {}
        for (name, (low, high)), prime in zip(bounds.items(), _PRIMES, strict=False):
            value = math.exp(math.log(low) + radical_inverse(index, prime) * math.log(high / low))
            point[name] = float(f"{value:.6g}")
        points.append(point)
    return points


def radical_inverse(index: int, prime: int) -> float:
    """Mirrors the digits of `index` in base `prime` at the point: a number in [0, 1).

    Example:
        >>> [radical_inverse(index, 2) for index in (1, 2, 3)]
        [0.5, 0.25, 0.75]
    """
    value, unit = 0.0, 1.0
    while index:
        unit /= prime
        index, digit = divmod(index, prime)
        value += digit * unit
    return value


def _checked(name: str, span: Sequence[float]) -> Range:
    low, high = span
    if not 0 < low < high < math.inf:
        raise InputError(f"range of {name} = {low:g} to {high:g}: must be above 0 and rise")
    return low, high
