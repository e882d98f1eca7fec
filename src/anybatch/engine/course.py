"""Where a step lies in a job: its phase, the examples before it, and which steps are evaluated or saved."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anybatch.engine.job import CarryOver, Job, Phase


@dataclass(frozen=True)
class Place:
    """`step` is step `index` of `phase`, which is the job's phase `number`; `start` examples come before it."""

    phase: Phase
    number: int
    index: int
    start: int


def place(job: Job, step: int) -> Place:
    """Where step `step` (of all phases) lies; the end of the last phase for the step after the last."""
    examples = 0
    for number, phase in enumerate(job.phases):
        if step < phase.num_steps:
            return Place(phase, number, step, examples + step * phase.global_batch_size)
        step -= phase.num_steps
        examples += phase.num_examples
    return Place(job.phases[-1], len(job.phases) - 1, job.phases[-1].num_steps, examples)


def evenly(num_steps: int, count: int) -> set[int]:
    """`count` steps (all, where there are fewer) spread evenly over 1 .. num_steps, the last one among them."""
    count = min(count, num_steps)
    return {math.ceil(num_steps * part / count) for part in range(1, count + 1)}


def enter(optimizer: torch.optim.Optimizer, phase: Phase) -> None:
    """Gives the optimizer's groups the hyperparameters of `phase`; weight decay only to the groups that are decayed."""
    for group in optimizer.param_groups:
        for name, value in phase.hyperparameters.items():
            if name in group and (name != "weight_decay" or group[name] != 0):
                group[name] = value


def carry_over(optimizer: torch.optim.Optimizer, how: CarryOver) -> None:
    """Makes the optimizer ready for a new phase; see `Phase`."""
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
    """Seeds what `torch.manual_seed` seeds, if it is there.

    Without a GPU, `torch.manual_seed` keeps a stack trace for each kind of device that may yet be used, at every step:
    a third of a millisecond.
    """
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)
