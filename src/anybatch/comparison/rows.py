"""One run as comparisons know it, from any source: a run folder, a log, a study's storage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anybatch.comparison.course import Health, Stretch

_ACCURACIES = ("top1", "mlm_accuracy", "lm_accuracy", "accuracy")
ELSEWHERE = "elsewhere"
"""The task of a run that another trainer has logged."""
# A run that ends this near to the untrained model, as a share of its score, has learned nothing.
_STILL = 0.02

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
