"""Finds a study: shipped, from a user's Python file, or made of a recipe and the command line's options."""

import runpy
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from anybatch.errors import InputError
from anybatch.names import nearest, optimizer_title
from anybatch.recipes import RECIPES, Recipe, change, find_recipe
from anybatch.recipes.change import as_another_optimizer
from anybatch.recipes.optimizers import find_optimizer
from anybatch.study import demo, shipped
from anybatch.study.declaration import Entrant, Study
from anybatch.study.protocols import Range

STUDIES: dict[str, Callable[[], Study]] = {
    "demo": shipped.demo,
    "scaling": demo.declared,
    "ablation": shipped.ablation,
    "reality-check": shipped.reality_check,
    "paper-bert": shipped.paper_bert,
    "paper-resnet": shipped.paper_resnet,
    "paper-resnet-16k": shipped.paper_resnet_16k,
    "paper-cifar10": shipped.paper_cifar10,
    "paper-mnist": shipped.paper_mnist,
}


def find_study(name: str) -> Study:
    """Returns the shipped study called `name`, or the one of the function `study()` in the Python file `name`."""
    if name.endswith(".py"):
        return _from_file(Path(name))
    if name in STUDIES:
        return STUDIES[name]()
    near = nearest(name, [*STUDIES, *RECIPES, "theory"], otherwise=[*STUDIES, "theory"])
    raise InputError(f"no study or recipe is called {name!r}; nearest: {near}; or name a Python file with study()")


def declare(name: str, options: Mapping[str, Any]) -> Study:
    """Returns a shipped or a user's study, or one of the recipe `name`; options that are not None replace fields.

    Args:
        options: optimizers, batch_sizes, protocol, ranges ("NAME:FIELD=LOW:HIGH" or "FIELD=LOW:HIGH"), assignments
            (fields of the recipe), num_seeds, num_trials, metric, target.
    """
    given = {key: value for key, value in options.items() if value not in (None, [])}
    num_seeds = given.pop("num_seeds", None)
    if num_seeds is not None:
        given["seeds"] = tuple(range(num_seeds))
    if "batch_sizes" in given:
        given["batch_sizes"] = tuple(given["batch_sizes"])
    optimizers, ranges, changes = (given.pop(key, []) for key in ("optimizers", "ranges", "assignments"))
    if name in RECIPES:
        recipe = change(find_recipe(name), changes)
        names = optimizers or [recipe.optimizer.name]
        for text in ranges:
            owner, _, _ = _parts(text)
            if owner and owner not in names:
                raise InputError(f"--range {text}: {owner} is not compared; give --optimizer {owner}, too")
        entrants = tuple(_of_recipe(recipe, one, ranges) for one in names)
        given.setdefault("batch_sizes", (recipe.phases[0].batch_size,))
        given.setdefault("protocol", "grid" if ranges else "untuned")
        return Study(name, f"Which optimizer does best on {name}, and at which batch?", entrants, **given)
    if optimizers or ranges:
        raise InputError(f"--optimizer and --range belong to a recipe's study; {name} declares its own")
    study = find_study(name)
    entrants = tuple(replace(one, recipe=change(one.recipe, changes)) for one in study.entrants)
    return replace(study, entrants=entrants, **given)


def _from_file(path: Path) -> Study:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        make = runpy.run_path(str(path), run_name="anybatch_study").get("study")
        if not callable(make):
            raise InputError(f"{path}: has no function study(), which returns an anybatch.study.Study")
        made = make()
    except InputError:
        raise
    # The file is the user's program, and may fail in any way.
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f"{path}:{lines[-1]}" if lines else str(path)
        raise InputError(f"{where}: {type(error).__name__}: {error}") from None
    if not isinstance(made, Study):
        raise InputError(f"{path}: study() returned a {type(made).__name__}, not an anybatch.study.Study")
    return made


def _of_recipe(recipe: Recipe, optimizer: str, ranges: Sequence[str]) -> Entrant:
    find_optimizer(optimizer)
    found: dict[str, Range] = {}
    for text in ranges:
        owner, field, span = _parts(text)
        try:
            low, high = map(float, span.split(":"))
        except ValueError:
            raise InputError(f"--range {text}: expected FIELD=LOW:HIGH or OPTIMIZER:FIELD=LOW:HIGH") from None
        if owner in ("", optimizer):
            found[field] = low, high
    name = optimizer_title(optimizer)
    chosen = recipe if optimizer == recipe.optimizer.name else change(recipe, as_another_optimizer(optimizer))
    return Entrant(name, chosen, found)


def _parts(text: str) -> tuple[str, str, str]:
    """Splits [OPTIMIZER:]FIELD=SPAN into (optimizer or "", field, span); the span is empty if there is no "="."""
    where, _, span = text.partition("=")
    owner, _, field = where.rpartition(":")
    return owner, field, span
