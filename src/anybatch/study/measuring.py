"""Short runs of the engine that measure a recipe: up to a step, or from another run's checkpoint on."""

import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from anybatch.engine import Progress, checkpoint
from anybatch.errors import Failed, InputError, Reached, Stopped
from anybatch.files import write_json
from anybatch.recipes import Recipe, train_recipe
from anybatch.recipes.change import with_absolute_paths
from anybatch.recipes.recipe import from_json
from anybatch.recipes.tasks import TASKS, fingerprints
from anybatch.runs import Run


@dataclass(frozen=True)
class Stage:
    """A stretch of a run: steps at one batch. `lr_range`: a range test of the learning rate, see the recipe's field."""

    num_steps: int
    batch_size: int
    lr_range: tuple[float, float] | None = None

    @property
    def num_examples(self) -> int:
        return self.num_steps * self.batch_size


def kept_or_removed(folder: Path | None) -> AbstractContextManager[str | Path]:
    """Gives `folder`, which is kept and continued, or a temporary one."""
    return TemporaryDirectory(prefix="anybatch-advise-") if folder is None else nullcontext(folder)


def staged(recipe: Recipe, stages: Sequence[Stage], num_examples: int, **engine: Any) -> Recipe:
    """Returns `recipe` as a run of `stages` under one schedule over `num_examples`; the rest has the last batch.

    The learning rate of each stage follows from the reference by the recipe's rule; there is one warm-up. A range test
    is its run's last stage, and ends it.

    Args:
        engine: settings of the engine instead of the recipe's.
    """
    last, ranged = stages[-1], stages[-1].lr_range is not None
    if not ranged:
        left = max(0, num_examples - sum(stage.num_examples for stage in stages))
        stages = [*stages[:-1], Stage(last.num_steps + -(-left // last.batch_size), last.batch_size)]
    length = sum(stage.num_examples for stage in stages)
    first = asdict(recipe.phases[0])
    own = {"lr": None, "warmup_ratio": None, "carry_over": "keep"}
    phases = [
        {**first, **own, "batch_size": s.batch_size, "share": s.num_examples / length, "lr_range": s.lr_range}
        for s in stages
    ]
    values = recipe.model_dump(mode="json")
    values["reference"] |= {"num_examples": length, "num_epochs": None}
    if ranged:
        # It starts from a checkpoint, and has no schedule for a warm-up.
        values["reference"] |= {"warmup_ratio": 0.0, "batch_size": min(values["reference"]["batch_size"], length)}
    values["optimizer"] |= {"lr": None, "warmup_ratio": None}
    values["engine"] |= {"async_checkpoints": False, **engine}
    return from_json({**values, "phases": phases, "ramp": not ranged})


def epoch_examples(recipe: Recipe) -> int:
    """Returns how many examples an epoch of the recipe's data has.

    Raises:
        InputError: the recipe or its data are wrong.
    """
    with kept_or_removed(None) as scratch:
        task = TASKS[recipe.task](with_absolute_paths(recipe), Run(Path(scratch)))
        return task.source(recipe.phases[0]).num_examples


@dataclass(frozen=True)
class Trainer:
    """Trains measuring runs: in this process, or on `nproc` processes of this machine."""

    progress: Progress
    nproc: int | None = None

    def to(self, recipe: Recipe, folder: Path, step: int, title: str) -> Run:
        """Trains `recipe` in `folder` up to `step`, from its newest checkpoint; the run is then saved at that step.

        Raises:
            Stopped: a signal came first.
            Failed: the loss was lost for too many steps in a row.
            InputError: the recipe or its data are wrong.
        """
        engine = replace(recipe.engine, stop_after_steps=step)
        recipe = with_absolute_paths(recipe.model_copy(update={"engine": engine}))
        if self.nproc is None:
            try:
                train_recipe(recipe, folder, resume=True, progress=self.progress, title=title)
            except Reached:
                pass
            except Stopped as stop:
                reason = str(stop).partition(" at step ")[0]
                raise Stopped(f"{reason}; with --out FOLDER the same command goes on from there") from None
            return Run(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(Run(folder).recipe_file, recipe.model_dump(mode="json"))
        self.progress.say(f"{title}, on {self.nproc} processes")
        flags = ["--resume", "--run", str(folder), "--nproc", str(self.nproc)]
        command = [sys.executable, "-m", "anybatch", "train", *flags]
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if (folder / "checkpoints" / f"step-{step:08d}").is_dir():
            return Run(folder)
        last = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1].removeprefix("anybatch: ")
        if ended.returncode == 75:
            raise Stopped(last)
        raise InputError(last.removeprefix("error: ")) if ended.returncode == 2 else Failed(last)


def branch(parent: Run, step: int, recipe: Recipe, folder: Path) -> None:
    """Makes `folder` a run of `recipe` that continues from the checkpoint of `parent` at `step`.

    `recipe` must take the same steps up to there, as a run of stages does whose first stage is the parent's.

    Raises:
        InputError: there is no such checkpoint, or it is damaged.
    """
    source = parent.checkpoints / f"step-{step:08d}"
    if not source.is_dir():
        raise InputError(f"{parent.path}: has no checkpoint of step {step}")
    target = Run(folder)
    folder.mkdir(parents=True, exist_ok=True)
    recipe = with_absolute_paths(recipe)
    checkpoint.adopt(source, target.checkpoints, fingerprints(recipe, target))
    write_json(target.environment_file, parent.environment())
    # Last: a folder with a recipe is a run that can be continued.
    write_json(target.recipe_file, recipe.model_dump(mode="json"))
