"""The place of a step in a job, the steps that are evaluated or saved, and faults that do not end a run."""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from anybatch.engine.job import CarryOver, Job, Phase
from anybatch.errors import Failed

# The number of losses by which a spike is measured, the smallest number of them, and the bound in standard deviations.
_WINDOW = 100
_FEWEST = 20
_DEVIATIONS = 6.0


@dataclass(frozen=True)
class Place:
    """`step` is step `index` of `phase`, the job's phase `number`; `start` examples come before it."""

    phase: Phase
    number: int
    index: int
    start: int


def place(job: Job, step: int) -> Place:
    """Returns the place of step `step` (of all phases); for the step after the last, the end of the last phase."""
    examples = 0
    for number, phase in enumerate(job.phases):
        if step < phase.num_steps:
            return Place(phase, number, step, examples + step * phase.global_batch_size)
        step -= phase.num_steps
        examples += phase.num_examples
    return Place(job.phases[-1], len(job.phases) - 1, job.phases[-1].num_steps, examples)


def evenly(num_steps: int, count: int) -> set[int]:
    """Returns `count` steps (all, if there are fewer) spread evenly over 1 .. num_steps, including the last."""
    count = min(count, num_steps)
    return {math.ceil(num_steps * part / count) for part in range(1, count + 1)}


def enter(optimizer: torch.optim.Optimizer, phase: Phase) -> None:
    """Gives the optimizer's groups the hyperparameters of `phase`; weight decay only to decayed groups."""
    for group in optimizer.param_groups:
        for name, value in phase.hyperparameters.items():
            if name in group and (name != "weight_decay" or group[name] != 0):
                group[name] = value


def carry_over(optimizer: torch.optim.Optimizer, how: CarryOver) -> None:
    """Prepares the optimizer for a new phase; see `Phase`."""
    if how == "new":
        optimizer.state.clear()
    elif how == "reset_step":
        states: list[Mapping[str, Any]] = list(optimizer.state.values())
        for state in states:
            step = state.get("step")
            if isinstance(step, Tensor):
                step.zero_()
            elif step is not None:
                state["step"] = 0  # type: ignore[index]


def seed_generator(seed: int) -> None:
    """Seeds the generators that `torch.manual_seed` seeds, if they exist.

    Without a GPU, `torch.manual_seed` stores a stack trace for each kind of device that may be used later, in every
    step: a third of a millisecond.
    """
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


class Health:
    """Follows a run's losses; for a resumed run, `losses` are those of the earlier steps, oldest first."""

    def __init__(self, max_skipped_steps: int, losses: Iterable[float | None] = ()) -> None:
        self._max_skipped_steps = max_skipped_steps
        self._recent = deque([loss for loss in losses if loss is not None and math.isfinite(loss)], _WINDOW)
        self._skipped = 0

    def spike(self, loss: float) -> bool:
        """Returns whether `loss` is over 6 standard deviations above the mean of the last 100; not in the first 20."""
        recent = list(self._recent)
        if math.isfinite(loss):
            self._recent.append(loss)
        if len(recent) < _FEWEST or loss <= (mean := fmean(recent)):
            return False
        return loss - mean > _DEVIATIONS * math.dist(recent, [mean] * len(recent)) / math.sqrt(len(recent))

    def check_skipped(self, skipped: bool, step: int, last_saved: int) -> None:
        """Counts steps in a row without a finite gradient.

        Raises:
            Failed: the run may not skip so many.
        """
        self._skipped = self._skipped + 1 if skipped else 0
        if self._skipped >= self._max_skipped_steps:
            raise Failed(
                f"step {step}: {self._skipped} steps in a row had no finite loss and gradient, and were skipped; the "
                f"last sound one is step {step - self._skipped}, and --resume continues from the checkpoint of step "
                f"{last_saved}; a lower optimizer.lr, or a longer warm-up in a new run, is the usual remedy"
            )
