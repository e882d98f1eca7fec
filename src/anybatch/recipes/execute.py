"""Turns a recipe into a run folder: builds, trains, scores; starts, resumes or evaluates again."""

import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from anybatch import engine
from anybatch.environment import describe_environment
from anybatch.errors import InputError
from anybatch.files import is_empty, write_json
from anybatch.recipes.change import changed_fields, with_absolute_paths
from anybatch.recipes.recipe import Recipe, from_json
from anybatch.recipes.tasks import TASKS, build
from anybatch.runs import Run, locked, open_run


def train_recipe(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    progress: engine.Progress | None = None,
    title: str | None = None,
    mirror: Callable[[Path], Any] | None = None,
) -> dict[str, Any]:
    """Trains `recipe` in the run folder `folder` and returns its result, {} on ranks other than the first.

    Args:
        resume: continue in an existing folder; a finished run is returned unchanged.
        mirror: makes another destination of the run's numbers; see `engine.records.Mirror`.

    Raises:
        InputError: the folder is in use, or holds a run of another recipe; or the recipe or its data are wrong.
        Stopped: a signal asked for it.
        Failed: the run could not continue.
        Elsewhere: another rank reports why the run ended.
    """
    recipe = with_absolute_paths(recipe)
    run = Run(folder)
    with engine.join_ranks(recipe.engine.hang_timeout_s) as ranks, ExitStack() as held:

        def prepared() -> engine.Job | None:
            """Rank 0 fills the folder first; returns None if the run has finished."""
            if not ranks.leader:
                if run.finished:
                    return None
                torch.set_num_threads(run.environment()["threads"])
                return build(recipe, run)
            if ranks.size == 1:
                return _lead(recipe, run, resume, held, ranks, say)
            with engine.stop_requests() as request, request.at_once("before training began; --resume begins it"):
                return _lead(recipe, run, resume, held, ranks, say)

        say = progress.say if progress is not None else engine.SilentProgress().say
        job = ranks.leader_first(prepared, "preparing the run")
        if job is None:
            return run.result() if ranks.leader else {}
        return engine.train(_on_its_part(job, recipe), run, progress, title or recipe.name, ranks, mirror)


def recipe_of(folder: Path) -> Recipe:
    """Returns the recipe of the run in `folder`, as it was started."""
    return from_json(open_run(folder).recipe())


def _on_its_part(job: engine.Job, recipe: Recipe) -> engine.Job:
    """Restricts the evaluation to every other held-out batch: a study tunes on one half and reports the other."""
    if recipe.held_out_part == "all":
        return job
    held_out = job.held_out[0 if recipe.held_out_part == "tuning" else 1 :: 2]
    if not held_out:
        raise InputError(
            f"held_out_part = {recipe.held_out_part!r}: the held-out data are one batch, which has no parts; "
            f"lower engine.micro_batch_size = {recipe.engine.micro_batch_size}"
        )
    return replace(job, held_out=held_out)


def _lead(
    recipe: Recipe, run: Run, resume: bool, held: ExitStack, ranks: engine.Ranks, say: Callable[[str], None]
) -> engine.Job | None:
    """Returns the job of rank 0, which holds the folder in `held`; None if the run has finished."""
    folder = run.path
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; choose a folder with --run")
    if folder.is_symlink() and not folder.exists():
        raise InputError(f"{folder}: is a link to {folder.readlink()}, which does not exist; make that folder first")
    # The topmost folder that is made here, which is removed if the run cannot start.
    new = next((part for part in reversed([folder, *folder.parents]) if not part.exists()), None)
    folder.mkdir(parents=True, exist_ok=True)
    held.enter_context(locked(folder))
    if resume and not is_empty(folder):
        _check_same(recipe, run)
        if run.finished:
            return None
        # Its checkpoints know the recipe by the field names with which it was started.
        write_json(run.recipe_file, {**run.recipe(), **recipe.model_dump(mode="json", include={"engine"})})
        _use_its_threads(run, ranks.size)
        _notice_versions(run, say)
        return build(recipe, run)
    if not is_empty(folder):
        raise InputError(f"{folder}: already exists; continue it with --resume, or choose another folder with --run")
    try:
        # First of all: a folder with a recipe can be resumed at any time.
        write_json(run.recipe_file, recipe.model_dump(mode="json"))
        write_json(run.environment_file, {**describe_environment(), "ranks": ranks.size})
        return build(recipe, run)
    except BaseException:
        shutil.rmtree(new or folder, ignore_errors=True)
        if new is None:
            folder.mkdir()
        raise


def evaluate_run(folder: Path, squad_file: Path | None = None, null_threshold: float | None = None) -> dict[str, float]:
    """Returns the scores of `evaluate_step`."""
    return evaluate_step(folder, squad_file, null_threshold)[1]


def evaluate_step(
    folder: Path,
    squad_file: Path | None = None,
    null_threshold: float | None = None,
    progress: engine.Progress | None = None,
) -> tuple[int, dict[str, float]]:
    """Scores a run on its held-out data, or on a file of questions in SQuAD's layout; returns the step and the scores.

    Args:
        folder: a run, whose finished model is scored, or otherwise its newest valid checkpoint; or the folder of one
            of its checkpoints.
        null_threshold: replaces the recipe's, for a run that may leave questions unanswered.
        progress: told about damaged checkpoints that were skipped.
    """
    checkpoint = folder.resolve() if (folder / "state.json").is_file() else None
    run = open_run(folder if checkpoint is None else checkpoint.parents[1])
    recipe = recipe_of(run.path)
    if checkpoint is None and run.finished:
        scores = TASKS[recipe.task](recipe, run).evaluate(run.sound_model(), squad_file, null_threshold)
        return run.result()["num_steps"], scores
    job = build(recipe, run)
    name = None if checkpoint is None else checkpoint.name
    step, problems = engine.load_newest(run.checkpoints, job.model, job.optimizer, job.inputs, engine.Ranks(), name)
    for line in problems:
        (progress or engine.SilentProgress()).say(line)
    if not step:
        raise InputError(f"{folder}: has no checkpoint yet; `anybatch train --run {folder} --resume`")
    with tempfile.TemporaryDirectory(prefix="anybatch-") as exported:
        job.export(job.model.eval(), Path(exported))
        return step, TASKS[recipe.task](recipe, run).evaluate(Path(exported), squad_file, null_threshold)


def _check_same(recipe: Recipe, run: Run) -> None:
    """Raises InputError if the run was started with another recipe; its engine options may differ."""
    before, now = (each.model_dump(mode="json", exclude={"engine"}) for each in (recipe_of(run.path), recipe))
    added = {name: (there, here) for name, (here, there) in changed_fields(now, before).items()}
    for name, (there, here) in (added | changed_fields(before, now)).items():
        raise InputError(
            f"{run.path}: the run was started with {name} = {there!r}, not {here!r}; resume it with its own settings, "
            "or choose another folder with --run"
        )


def _use_its_threads(run: Run, num_ranks: int) -> None:
    """Uses the run's number of threads, for the same sums in the same order; not if the number of ranks differs."""
    if not run.environment_file.exists():
        write_json(run.environment_file, {**describe_environment(), "ranks": num_ranks})
    environment = run.environment()
    threads = environment.get("threads")
    if not isinstance(threads, int) or threads < 1:
        raise InputError(f"{run.environment_file}: damaged: threads = {threads!r} is not a number of at least 1")
    if environment.get("ranks", 1) == num_ranks:
        torch.set_num_threads(threads)
    else:
        write_json(run.environment_file, {**environment, "threads": torch.get_num_threads(), "ranks": num_ranks})


def _notice_versions(run: Run, say: Callable[[str], None]) -> None:
    """Reports other versions than at the run's start: its sums may be rounded differently."""
    before, now = run.environment().get("versions"), describe_environment()["versions"]
    if not isinstance(before, dict):
        raise InputError(f"{run.environment_file}: damaged: versions = {before!r} is not an object")
    changed = [
        f"{name} {now.get(name)}, not {before[name]}"
        for name in ("torch", "numpy")
        if name in before and before[name] != now.get(name)
    ]
    if changed:
        versions = " and ".join(changed)
        say(f"{run.path}: continues with {versions} as at its start; its numbers may differ by rounding")
