"""A user's own cluster: a TOML file that says how it differs from one that is known."""

import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args

from anybatch.errors import InputError
from anybatch.planner.accelerators import Achieved, Family
from anybatch.planner.cluster import Cluster

# Other numbers must be above 0; a topology is one of two words.
_FROM_0_TO_1 = ("overlap", "achieved")
_AT_LEAST_0 = ("latency_s", "kernel_s", "jitter", "price")
_TOPOLOGIES = ("switched", "torus")


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; InputError where there is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: is not TOML: {error}") from None


def changed(known: Cluster, values: Mapping[str, Any], path: Path) -> Cluster:
    """`known` with the fields that `values` gives, by the names of `Cluster`, `Link` and `Accelerator`.

    Example:
        like = "h100-node"
        price = 2.1
        [between]
        bytes_per_s = 12.5e9
        [accelerator.achieved]
        transformer = 0.42

    Raises:
        InputError: naming the file, the field, its value and its bound.
    """
    named = {"name": path.stem, "title": f"{known.title}, as changed by {path.name}", **values}
    if "price" in values:
        named.setdefault("price_source", f"given in {path.name}")
    cluster: Cluster = _changed(known, named, path, "")
    return cluster


def _changed(known: Any, values: Mapping[str, Any], path: Path, where: str) -> Any:
    names = [field.name for field in fields(known)]
    changes: dict[str, Any] = {}
    for name, value in values.items():
        label = f"{path}: {where}{name}"
        if name not in names:
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names
            raise InputError(f"{label}: no such field; nearest: {', '.join(near)}")
        old = getattr(known, name)
        if isinstance(old, Mapping):
            changes[name] = _shares(old, _table(value, label), label)
        elif is_dataclass(old):
            changes[name] = _changed(old, _table(value, label), path, f"{where}{name}.")
        elif name == "topology" and value not in _TOPOLOGIES:
            raise InputError(f"{label} = {value!r}: must be one of {', '.join(_TOPOLOGIES)}")
        elif isinstance(old, str):
            if not isinstance(value, str):
                raise InputError(f"{label} = {value!r}: must be a string")
            changes[name] = value
        else:
            changes[name] = _number(name, value, label, whole=isinstance(old, int))
    return replace(known, **changes)


def _table(value: Any, label: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{label} = {value!r}: must be a table of its fields")
    return value


def _shares(known: Mapping[Family, Achieved], values: Mapping[str, Any], label: str) -> dict[Family, Achieved]:
    found = dict(known)
    for name, value in values.items():
        if name not in get_args(Family):
            raise InputError(f"{label}.{name}: must be one of {', '.join(get_args(Family))}")
        found[name] = Achieved(_number("achieved", value, f"{label}.{name}"), "given")  # type: ignore[index]
    return found


def _number(name: str, value: Any, label: str, whole: bool = False) -> float:
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise InputError(f"{label} = {value!r}: must be a {'whole ' if whole else ''}number")
    least, most = ("at least 0", math.inf) if name in _AT_LEAST_0 else ("above 0", math.inf)
    if name in _FROM_0_TO_1:
        least, most = ("at least 0" if name == "overlap" else "above 0"), 1.0
    if value < 0 or (value == 0 and least == "above 0") or value > most:
        raise InputError(f"{label} = {value!r}: must be {least}{' and at most 1' if most == 1 else ''}")
    return value  # type: ignore[no-any-return]
