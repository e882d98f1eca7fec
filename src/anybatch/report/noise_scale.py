"""The gradient noise scale as training went, from the steps in which a run has measured it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from anybatch.numbers import finite, whole
from anybatch.scaling import NoiseScale, noise_scale

# Fewer measured steps say nothing; so many make a stretch whose interval says something; more stretches say no more.
_FEWEST, _STRETCH, _MOST_STRETCHES = 4, 8, 12


@dataclass(frozen=True)
class Stretch:
    """Some consecutive measured steps, in the middle of which `examples` had been seen."""

    examples: float
    noise: NoiseScale


def stretches(events: Sequence[Any]) -> list[Stretch]:
    """The noise scale over equal stretches of a run's measured steps; none where there are too few of those."""
    known = [
        (examples, square, trace)
        for event in events
        if event.get("event") == "noise"
        for examples in [whole(event.get("examples"))]
        for square, trace in [(finite(event.get("gradient_square")), finite(event.get("noise_trace")))]
        if examples is not None and square is not None and trace is not None
    ]
    count = min(_MOST_STRETCHES, max(1, len(known) // _STRETCH)) if len(known) >= _FEWEST else 0
    parts = [known[len(known) * k // count : len(known) * (k + 1) // count] for k in range(count)]
    return [
        Stretch((part[0][0] + part[-1][0]) / 2, noise_scale([square for _, square, _ in part], [t for *_, t in part]))
        for part in parts
    ]
