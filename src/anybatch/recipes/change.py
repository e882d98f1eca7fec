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


def differences(recipe: Recipe, shipped: Recipe) -> list[str]:
    """Returns the assignments that turn `shipped` into `recipe`; phases are one if their number differs."""
    before, now = shipped.model_dump(mode="json"), recipe.model_dump(mode="json")
    if len(before["phases"]) != len(now["phases"]):
        before["phases"] = None
    names = [name for name in field_names(now) if not (before["phases"] is None and name.startswith("phases."))]
    changed = [name for name in names if value_at(before, name) != value_at(now, name)]
    found = [f"{name}={json.dumps(value_at(now, name))}" for name in changed]
    return ([f"phases={json.dumps(now['phases'])}"] if before["phases"] is None else []) + found


def value_at(values: Any, name: str) -> Any:
    """Returns the value under a dotted name; None if there is none."""
    for part in name.split("."):
        if isinstance(values, list):
            values = values[int(part)] if int(part) < len(values) else None
        elif isinstance(values, dict):
            values = values.get(part)
    return values


def field_names(values: Any, prefix: str = "") -> Iterator[str]:
    """Yields the dotted names of all leaves of nested dicts and lists."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else None
    if not items:
        yield prefix
        return
    for key, value in items:
        yield from field_names(value, f"{prefix}.{key}" if prefix else str(key))


def _assign(values: dict[str, Any], name: str, value: Any) -> None:
    *parents, last = name.split(".")
    target: Any = values
    for part in parents:
        target = _child(target, part)
    # options belong to the optimizer's constructor, which knows their names; everything else is fixed.
    free = parents == ["optimizer", "options"] and isinstance(target, dict)
    if free or _child(target, last) is not _MISSING:
        target[int(last) if isinstance(target, list) else last] = value
        return
    if name in RENAMED:
        raise InputError(f"--set {name}: the field is called {RENAMED[name][0]} now")
    raise InputError(f"--set {name}: the recipe has no such field; nearest: {nearest(name, field_names(values))}")


_MISSING = object()


def _child(target: Any, part: str) -> Any:
    if isinstance(target, dict):
        return target.get(part, _MISSING)
    if isinstance(target, list) and part.isascii() and part.isdecimal() and int(part) < len(target):
        return target[int(part)]
    return _MISSING


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
