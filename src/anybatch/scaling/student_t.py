"""Student's t, of which small samples take their intervals. Exact, without SciPy."""

import math
from functools import lru_cache


def t_cumulative(x: float, freedom: int) -> float:
    """Returns P(T <= x) of Student's t for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    theta = math.atan2(x, math.sqrt(freedom))
    cosine = math.cos(theta)
    term, total = (cosine, 0.0) if freedom % 2 else (1.0, 0.0)
    for k in range(1 + freedom % 2, freedom, 2):
        total += term
        term *= cosine * cosine * k / (k + 1)
    inside = 2 / math.pi * (theta + math.sin(theta) * total) if freedom % 2 else math.sin(theta) * total
    return (1 + inside) / 2


@lru_cache(maxsize=256)
def t_quantile(probability: float, freedom: int) -> float:
    """Returns the x with P(T <= x) = `probability`, at least 1/2."""
    low, high = 0.0, 1.0
    while t_cumulative(high, freedom) < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cumulative(middle, freedom) < probability else (low, middle)
    return (low + high) / 2
