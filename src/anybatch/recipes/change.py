"""Changes values of a recipe: one field by its dotted name, the batch size, or relative paths."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from anybatch.errors import InputError
from anybatch.names import nearest
from anybatch.recipes.recipe import Recipe, from_json
from anybatch.recipes.renamed import RENAMED


def change(recipe: Recipe, assignments: Sequence[str]) -> Recipe:
    """Returns `recipe` with fields set by 'dotted.name=value'; the value is JSON or otherwise a string.

    Raises:
        InputError: no '=', an unknown field (the nearest names are given), or a value that does not fit.
    """
    values = recipe.model_dump(mode="json")
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if not separator:
            raise InputError(f"--set {assignment}: expected FIELD=VALUE, such as optimizer.lr=2e-3")
        if name.strip() == "ramp":
            _ramp(values, text.strip())
        else:
            _assign(values, name.strip(), _parse(text.strip(), recipe, name.strip()))
    return from_json(values)


def ramp_stages(text: str) -> list[tuple[float, int]]:
    """Returns (share, batch) of each stage of a ramp, from the command line's text.

    >>> ramp_stages("32:128")
    [(0.3333333333333333, 32), (0.3333333333333333, 64), (0.3333333333333333, 128)]
    >>> ramp_stages("32@0.5,256@0.5")
    [(0.5, 32), (0.5, 256)]
    """
    try:
        if "@" in text:
            parts = [part.split("@") for part in text.split(",")]
            return [(float(share), int(batch)) for batch, share in parts]
        first, last = map(int, text.split(":"))
    except ValueError:
        raise InputError(
            f"--set ramp={text}: expected FIRST:LAST, as 32:2048 (doublings at even shares), or BATCH@SHARE,..., as "
            "32@0.5,256@0.5"
        ) from None
    if not 1 <= first <= last:
        raise InputError(f"--set ramp={text}: the batches must be at least 1, and a ramp does not shrink")
    batches = [first]
    while batches[-1] < last:
        batches.append(min(2 * batches[-1], last))
    return [(1 / len(batches), batch) for batch in batches]


def _ramp(values: dict[str, Any], text: str) -> None:
    """Gives the recipe one phase for each stage, otherwise like its only phase; true and false set the field."""
    if text in ("true", "false"):
        if text == "true" and len(values["phases"]) < 2:
            raise InputError("--set ramp=true: the recipe has one phase; name the batches, as --set ramp=32:2048")
        values["ramp"] = text == "true"
        return
    if len(values["phases"]) > 1 and not values["ramp"]:
        raise InputError(f"--set ramp={text}: the recipe has {len(values['phases'])} phases; a ramp is made of one")
    phase = values["phases"][0]
    values["phases"] = [{**phase, "share": share, "batch_size": batch} for share, batch in ramp_stages(text)]
    values["ramp"] = True


def as_another_optimizer(name: str, options: Mapping[str, Any] | None = None) -> list[str]:
    """Returns the assignments that give a recipe another optimizer, with its own options and default moments.

    >>> as_another_optimizer("nesterov")[0]
    'optimizer.name=nesterov'
    """
    moments = [f"reference.{moment}=null" for moment in ("betas", "momentum", "eps")]
    return [f"optimizer.name={name}", f"optimizer.options={json.dumps(options or {})}", *moments]


def as_options(assignments: Sequence[str]) -> str:
    """Returns the assignments as options for a command to paste: a shell passes each on unchanged.

    >>> as_options(["data.path=my texts", "seed=1"])
    " --set 'data.path=my texts' --set seed=1"
    """
    return "".join(f" --set {shlex.quote(assignment)}" for assignment in assignments)


def with_batch_size(recipe: Recipe, batch_size: int) -> Recipe:
    """Returns `recipe` with the first phase at `batch_size`, and later phases scaled in proportion."""
    if batch_size < 1:
        raise InputError(f"batch size {batch_size}: must be at least 1")
    first = recipe.phases[0].batch_size
    values = recipe.model_dump(mode="json")
    for phase in values["phases"]:
        phase["batch_size"] = max(1, round(phase["batch_size"] * batch_size / first))
    return from_json(values)


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """Returns `recipe` with absolute paths, so that a run can be resumed and evaluated from anywhere."""
    changes: dict[str, Any] = {}
    for part in ("data", "model"):
        settings = getattr(recipe, part)
        if getattr(settings, "path", None) is not None:
            changes[part] = replace(settings, path=str(Path(settings.path).resolve()))
    return recipe.model_copy(update=changes)


def with_stand_in(recipe: Recipe) -> Any:
    """Returns `recipe` with replacement data, as large as its source's, if it has none."""
    if recipe.data.stand_in is None:
        return recipe
    return recipe.model_copy(update={"data": replace(recipe.data, builtin="blank")})


def differences(recipe: Recipe, shipped: Recipe) -> list[str]:
    """Returns the assignments that turn `shipped` into `recipe`; phases are one if their number differs."""
    before, now = shipped.model_dump(mode="json"), recipe.model_dump(mode="json")
    whole = []
    if len(before["phases"]) != len(now["phases"]):
        whole = [f"phases={json.dumps(now['phases'])}"]
        del before["phases"], now["phases"]
    return [*whole, *(f"{name}={json.dumps(value)}" for name, (_, value) in changed_fields(before, now).items())]


def changed_fields(before: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns {dotted name: (value before, value now)} of the fields of `now` that `before` has not, or has otherwise.

    >>> changed_fields({"a": [1, 2], "b": 3}, {"a": [1, 4], "b": 3})
    {'a.1': (2, 4)}
    """
    known = {name: holder[key] for name, holder, key in _places(before)}
    return {
        name: (known.get(name), value)
        for name, holder, key in _places(now)
        if _is_leaf(value := holder[key]) and known.get(name) != value
    }


def _places(values: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields the dotted name, the holder and the key of everything inside nested dicts and lists."""
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        yield f"{prefix}{key}", values, key
        if not _is_leaf(value):
            yield from _places(value, f"{prefix}{key}.")


def _is_leaf(value: Any) -> bool:
    return not value or not isinstance(value, dict | list)


def _assign(values: dict[str, Any], name: str, value: Any) -> None:
    places = {known: (holder, key) for known, holder, key in _places(values)}
    parent, _, last = name.rpartition(".")
    # options belong to the optimizer's constructor, which knows their names; everything else is fixed.
    if parent == "optimizer.options" and isinstance(values["optimizer"]["options"], dict):
        values["optimizer"]["options"][last] = value
    elif name in places:
        holder, key = places[name]
        holder[key] = value
    elif name in RENAMED:
        raise InputError(f"--set {name}: the field is called {RENAMED[name][0]} now")
    else:
        leaves = [known for known, (holder, key) in places.items() if _is_leaf(holder[key])]
        raise InputError(f"--set {name}: the recipe has no such field; nearest: {nearest(name, leaves)}")


def _parse(text: str, recipe: Recipe, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if text == "none" and text in _words(recipe, name):
        return text
    return {"none": None, "None": None, "True": True, "False": False}.get(text, text)


def _words(recipe: Recipe, name: str) -> set[Any]:
    """Returns the words that the field called `name` takes; empty if there is no such field."""
    *parents, last = name.split(".")
    holder: Any = recipe
    for part in parents:
        holder = holder[int(part)] if isinstance(holder, tuple) and part.isdecimal() else getattr(holder, part, None)
    return _literals(get_type_hints(type(holder)).get(last))


def _literals(hint: Any) -> set[Any]:
    return {word for each in get_args(hint) for word in ([each] if isinstance(each, str) else _literals(each))}
