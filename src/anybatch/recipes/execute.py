"""A recipe becomes a run folder: built, trained, scored; started, resumed or evaluated again."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from anybatch import engine
from anybatch.engine.environment import describe_environment
from anybatch.errors import InputError
from anybatch.files import write_json
from anybatch.recipes import pretraining, questions
from anybatch.recipes.recipe import PretrainingRecipe, Recipe, field_names, from_json
from anybatch.runs import Run, open_run


def train_recipe(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    progress: engine.Progress | None = None,
    title: str | None = None,
) -> dict[str, Any]:
    """Trains `recipe` in the run folder `folder` and returns its result.

    Args:
        resume: go on in an existing folder; a finished run is returned as it is.

    Raises:
        InputError: the folder is in use, or holds a run of another recipe; or the recipe or its data are wrong.
        engine.Stopped: a signal asked for it.
    """
    if resume and folder.exists():
        run = _open(recipe, folder)
        if run.finished:
            return run.result()
        job = _build(recipe, run)
    else:
        run, job = _start(recipe, folder)
    return engine.train(job, run, progress, title or recipe.name)


def evaluate_run(folder: Path, squad_file: Path | None = None) -> dict[str, float]:
    """The scores of a run's finished model on its own held-out data, or on a file of questions in SQuAD v1.1 layout."""
    run = open_run(folder)
    recipe = from_json(run.recipe())
    if not run.model.is_dir():
        raise InputError(f"{folder}: the run has no finished model yet; `anybatch train --resume` it first")
    if isinstance(recipe, PretrainingRecipe):
        if squad_file is not None:
            raise InputError(
                f"{folder}: a pretraining run cannot answer questions; fine-tune it first: "
                f"anybatch train squad-demo --set model.path={folder}"
            )
        return pretraining.score_finished(recipe, run)
    return questions.score_finished(recipe, run, squad_file)


def _build(recipe: Recipe, run: Run) -> engine.Job:
    if isinstance(recipe, PretrainingRecipe):
        return pretraining.build(recipe, run)
    return questions.build(recipe, run)


def _start(recipe: Recipe, folder: Path) -> tuple[Run, engine.Job]:
    """A new run folder and its job; where the job cannot be built, no folder is left."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: already exists; go on with --resume, or choose another folder with --run")
    run = Run(folder)
    try:
        job = _build(recipe, run)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(run.environment_file, describe_environment())
        write_json(run.recipe_file, recipe.model_dump(mode="json"))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return run, job


def _open(recipe: Recipe, folder: Path) -> Run:
    run = open_run(folder)
    before, now = run.recipe(), recipe.model_dump(mode="json")
    changed = [name for name in _all_names(before, now) if _value(before, name) != _value(now, name)]
    if changed:
        name = changed[0]
        raise InputError(
            f"{folder}: the run was started with {name} = {_value(before, name)!r}, not {_value(now, name)!r}; "
            f"resume it with its own settings, or choose another folder with --run"
        )
    threads = run.environment()["threads"]
    torch.set_num_threads(threads)
    return run


def _all_names(*values: dict[str, Any]) -> Sequence[str]:
    return list(dict.fromkeys(name for value in values for name in field_names(value)))


def _value(values: Any, name: str) -> Any:
    for part in name.split("."):
        if isinstance(values, list):
            values = values[int(part)] if int(part) < len(values) else None
        elif isinstance(values, dict):
            values = values.get(part)
    return values
