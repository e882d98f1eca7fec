"""The course of one run from its metrics: clips, skips, jumps, waits; and gradient noise."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anybatch.numbers import finite, whole
from anybatch.scaling import NoiseScale, noise_scale

# The smallest number of measured steps; the number in a stretch with a useful interval; the largest number of
# stretches.
_FEWEST, _STRETCH, _MOST_STRETCHES = 4, 8, 12


@dataclass(frozen=True)
class Health:
    """The course of one run, from its metrics; None for what they do not hold."""

    steps: int
    clipped: int | None
    skipped: tuple[int, ...]
    spikes: tuple[int, ...]
    wait_share: float | None
    starts: int
    failed_saves: tuple[int, ...]
    memory_bytes: float | None


def observe(events: Sequence[Mapping[str, Any]]) -> Health | None:
    """Reads the course from the events of metrics.jsonl; None if no step was recorded."""
    steps = [event for event in events if event.get("event") == "train"]
    if not steps:
        return None
    clipped = _known(steps, "clipped")
    waits = [(finite(event.get("data_wait_s")), finite(event.get("step_s"))) for event in steps]
    timed = [(wait, step_s) for wait, step_s in waits if wait is not None and step_s is not None]
    taken = sum(step_s for _, step_s in timed)
    return Health(
        steps=len(steps),
        clipped=sum(map(bool, clipped)) if clipped else None,
        skipped=_where(steps, "skipped"),
        spikes=_where(steps, "spike"),
        wait_share=sum(wait for wait, _ in timed) / taken if taken else None,
        failed_saves=_steps_of(event for event in events if event.get("event") == "save_failed"),
        starts=sum(event.get("event") == "start" for event in events),
        memory_bytes=max(_known(steps, "memory_bytes"), default=None),
    )


def _known(steps: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [number for event in steps if (number := finite(event.get(key))) is not None]


def _where(steps: Sequence[Mapping[str, Any]], key: str) -> tuple[int, ...]:
    return _steps_of(event for event in steps if finite(event.get(key)))


def _steps_of(events: Iterable[Mapping[str, Any]]) -> tuple[int, ...]:
    return tuple(whole(event.get("step")) or 0 for event in events)


@dataclass(frozen=True)
class Stretch:
    """Consecutive measured steps; the run had seen `examples` in their middle."""

    examples: float
    noise: NoiseScale


def stretches(events: Sequence[Any]) -> list[Stretch]:
    """Returns the noise scale over equal stretches of a run's measured steps; none if there are too few steps."""
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
