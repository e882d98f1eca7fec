"""One run as comparisons know it, from any source: a run folder, a log, a study's storage."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anybatch.numbers import finite, whole
from anybatch.scaling import NoiseScale, noise_scale

_ACCURACIES = ("top1", "mlm_accuracy", "lm_accuracy", "accuracy")
ELSEWHERE = "elsewhere"
"""The task of a run that another trainer has logged."""
# A run that ends this near to the untrained model, as a share of its score, has learned nothing.
_STILL = 0.02
# The smallest number of measured steps; the number in a stretch with a useful interval; the largest number of
# stretches.
_FEWEST, _STRETCH, _MOST_STRETCHES = 4, 8, 12

Ratios = tuple[int, Mapping[str, float | None]]
"""A step and the trust ratio of each layer in it."""
Curve = Sequence[tuple[int, int, float | None]]
"""(steps, examples, score) of each evaluation."""


@dataclass(frozen=True)
class Reference:
    """The tuned settings that a run was scaled from."""

    batch: int
    lr: float | None


@dataclass(frozen=True)
class Point:
    """One line of the metrics; None if a number is missing or not finite."""

    step: int
    examples: int
    loss: float | None
    accuracy: float | None
    lr: float | None = None
    phase: int | None = None


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


@dataclass(frozen=True)
class Stretch:
    """Consecutive measured steps; the run had seen `examples` in their middle."""

    examples: float
    noise: NoiseScale


@dataclass(frozen=True)
class Row:
    """One run.

    Args:
        state: 'finished' if the run has a result, also if it diverged; otherwise its outcome, 'failed' or 'not run'.
        score: the final number that runs are compared by; None if it is not finite.
        message: why the run has no score.
        entrant: the contender of a study.
        part: 'tuning' for a run that only looks for settings.
        settings: fields of the recipe that a study set after scaling.
        curve: the score during a study's run.
        lr_is_bound: `lr` is the highest learning rate that another trainer logged; the peak may lie between two
            entries.
        rule: the scaling rule that made the run's settings from its reference.
        ramp: the batches of a run whose batch grows, as '32 to 256'.
        context_free_loss: the loss of a model that knows only how frequent each token is.
        sample: the start of a text, and the model's continuation.
    """

    name: str
    state: str
    optimizer: str
    batch: int
    seed: int | None
    score: float | None = None
    message: str = ""
    task: str = "pretraining"
    recipe_name: str = ""
    entrant: str = ""
    part: str = "reported"
    settings: Mapping[str, float] = field(default_factory=dict)
    path: Path | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    parent: Path | None = None
    reference: Reference | None = None
    rule: str = "sqrt"
    ramp: str = ""
    lr: float | None = None
    lr_is_bound: bool = False
    warmup_steps: int | None = None
    hyperparameters: Mapping[str, str] = field(default_factory=dict)
    num_steps: int | None = None
    num_examples: int | None = None
    parameters: int | None = None
    wall_s: float | None = None
    examples_per_s: float | None = None
    skipped_steps: int | None = None
    context_free_loss: float | None = None
    final: Mapping[str, float | None] = field(default_factory=dict)
    curve: Curve = ()
    evals: Sequence[Point] = ()
    trains: Sequence[Point] = ()
    ratios: Sequence[Ratios] = ()
    health: Health | None = None
    noise: Sequence[Stretch] = ()
    tracker: Mapping[str, Any] = field(default_factory=dict)
    sample: tuple[str, str] | None = None

    @property
    def finished(self) -> bool:
        return self.state == "finished"

    @property
    def diverged(self) -> bool:
        """Returns whether the run finished without a finite score."""
        return self.finished and self.task != "questions" and self.score is None

    @property
    def still(self) -> bool:
        """Returns whether a study's run ended at the untrained model's score."""
        if self.score is None or len(self.curve) < 2 or self.curve[0][0] != 0 or (start := self.curve[0][2]) is None:
            return False
        return abs(self.score - start) <= _STILL * abs(start)

    @property
    def outcome(self) -> str:
        return "diverged" if self.diverged else "learned nothing" if self.still else self.state

    @property
    def accuracy(self) -> float | None:
        return next((self.final[name] for name in _ACCURACIES if name in self.final), None)


def adapted(samples: Sequence[Ratios]) -> list[Ratios]:
    """Returns the samples without layers whose ratio is always 1: those are not adapted."""
    names = {name for _, ratios in samples for name, ratio in ratios.items() if ratio != 1}
    kept = [(step, {name: ratio for name, ratio in ratios.items() if name in names}) for step, ratios in samples]
    return [(step, ratios) for step, ratios in kept if ratios]


def crossing(curve: Curve, target: float, higher: bool) -> tuple[float, float] | None:
    """Returns (steps, examples) at which a curve first reaches `target`, between evaluations on a line; or None."""
    before: tuple[int, int, float] | None = None
    for steps, examples, value in curve:
        if value is None:
            before = None
            continue
        if value >= target if higher else value <= target:
            if before is None or before[2] == value:
                return float(steps), float(examples)
            share = (target - before[2]) / (value - before[2])
            return before[0] + share * (steps - before[0]), before[1] + share * (examples - before[1])
        before = steps, examples, value
    return None


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
