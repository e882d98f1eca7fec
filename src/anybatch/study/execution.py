"""Turns a trial into an outcome: trains the recipe on one part of the held-out data, and stops if it diverges."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from anybatch.comparison.rows import adapted
from anybatch.engine import Progress, Task
from anybatch.errors import InputError
from anybatch.files import locked
from anybatch.numbers import finite
from anybatch.progress import SilentProgress
from anybatch.recipes import Recipe, change, train_recipe
from anybatch.recipes.builtin_text import prepare_builtin_text
from anybatch.recipes.recipe import CorpusSettings
from anybatch.runs import Run
from anybatch.study.declaration import Outcome, Study, Trial

# A loss this many times that of the untrained model is far above it.
_FAR = 2.0
_BAD_STEPS = 3
# The number of a layer's trust ratios in the storage, with three digits: some ten kilobytes for BERT-large.
_RATIO_STEPS = 12


class Diverged(Exception):
    """The run is not worth continuing."""


def train_trial(study: Study, trial: Trial, recipe: Recipe, out: Path, progress: Progress) -> Outcome:
    """Trains `recipe` in the trial's run folder, from where a killed worker left it on this machine."""
    settings = [
        f"engine.num_evals={study.num_evals}",
        f"engine.num_trust_ratios={_RATIO_STEPS}",
        f"held_out_part={trial.part}",
    ]
    recipe = with_shared_text(change(recipe, settings), out)
    folder = run_folder(out, trial)
    run = Run(folder)
    watched = WatchedProgress(progress, partial(check_course, run))
    diverged = False
    try:
        train_recipe(recipe, folder, resume=True, progress=watched, title=trial.key)
    except Diverged:
        diverged = True
    events = run.metrics("eval")
    curve = tuple((event["step"], event["examples"], metric_of(event, study.metric, folder)) for event in events)
    diverged = diverged or not curve or curve[-1][2] is None or _far(events[-1], events[0])
    ratios = _ratios(run) if trial.part == "reported" and trial.seed == study.seeds[0] else ()
    return Outcome(curve, diverged, run.metrics("train")[-1]["step"], ratios)


def run_folder(out: Path, trial: Trial) -> Path:
    """Returns the trial's run folder in the study's folder `out`."""
    return out / "runs" / trial.key


def _ratios(run: Run) -> tuple[tuple[int, dict[str, float]], ...]:
    """Returns the trust ratios of the adapted layers."""
    samples = adapted([(event["step"], event["ratios"]) for event in run.metrics("trust_ratios")])
    return tuple(
        (step, {name: float(f"{ratio:.3g}") for name, ratio in ratios.items() if finite(ratio)})
        for step, ratios in samples
    )


def metric_of(event: dict[str, Any], metric: str, folder: Path) -> float | None:
    """Returns the loss, or the accuracy called `metric`, of an evaluation."""
    if metric == "loss":
        return finite(event["loss"])
    if metric not in event["accuracy"]:
        known = ", ".join(event["accuracy"]) or "none"
        raise InputError(f"{folder}: metric = {metric!r} is not measured; there are loss and the accuracies {known}")
    return finite(event["accuracy"][metric])


def check_course(run: Run, share: float) -> None:
    """Raises Diverged if the run is not worth continuing; `share` of it is done, from 0 to 1.

    The last three steps had no finite loss; or, in the second half, they and the last evaluation are far above the
    untrained model. In the first half a run may still recover from the peak of its learning rate. And an evaluation
    alone may be bad: BatchNorm's averages follow the weights with a delay.
    """
    events = run.metrics()
    steps = [event for event in events if event["event"] == "train"][-_BAD_STEPS:]
    evals = [event for event in events if event["event"] == "eval"]
    if len(steps) == _BAD_STEPS and all(finite(event["loss"]) is None for event in steps):
        raise Diverged(f"the last {_BAD_STEPS} steps had no finite loss")
    if share > 0.5 and evals and all(_far(event, evals[0]) for event in (*steps, evals[-1])):
        raise Diverged("the loss is far above that of the untrained model")


def _far(event: dict[str, Any], untrained: dict[str, Any]) -> bool:
    """Returns whether the loss of a step or an evaluation is not finite, or far above the untrained model's."""
    loss, first = finite(event["loss"]), finite(untrained["loss"])
    return loss is None or (first is not None and loss > _FAR * first)


def with_shared_text(recipe: Recipe, out: Path) -> Recipe:
    """Prepares the built-in text once for all trials, if the recipe learns from it and names no folder."""
    if not isinstance(recipe.data, CorpusSettings) or recipe.data.path is not None:
        return recipe
    out.mkdir(parents=True, exist_ok=True)
    folder = out / "data"
    with locked(out / ".data.lock"):
        if not folder.exists():
            prepare_builtin_text(folder, recipe.data.tokenizer or "wordpiece")
    return recipe.model_copy(update={"data": replace(recipe.data, path=str(folder))})


class WatchedProgress:
    """Passes everything to `progress`, or its `task`, and regularly runs `check`, which may end the run by raising.

    `check` gets the share of the task that is done.
    """

    def __init__(
        self,
        progress: Progress,
        check: Callable[[float], None],
        task: Task | None = None,
        total: int = 0,
        done: int = 0,
    ) -> None:
        self._progress, self._check, self._total, self._checked = progress, check, total, done
        self._task = task or SilentProgress()

    def task(self, title: str, total: int, done: int = 0) -> Task:
        return WatchedProgress(self._progress, self._check, self._progress.task(title, total, done), total, done)

    def say(self, line: str) -> None:
        self._progress.say(line)

    def advance(self, done: int, note: str) -> None:
        self._task.advance(done, note)
        # Reading the metrics costs more in a longer run: fifty looks are enough.
        if (done - self._checked) * 50 >= self._total:
            self._checked = done
            self._check(done / self._total)

    def end(self) -> None:
        self._task.end()
