"""A user's cluster: a TOML file with its differences from a known cluster."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any, get_args

from anybatch.accelerators import Precision
from anybatch.errors import InputError
from anybatch.names import nearest
from anybatch.planner.cluster import Cluster, Family, Mfu

# The smallest and the largest value of a number, far outside of all hardware: beyond them, a plan's arithmetic
# overflows. Other fields are speeds and sizes, from one FLOP or byte a second on. A topology is one of two words.
_BOUNDS = {
    "overlap": (0, 1),
    "efficiency": (1e-6, 1),
    "mfu": (1e-6, 1),
    "latency_s": (0, 100),
    "launch_s": (0, 100),
    "jitter": (0, 100),
    "price": (0, 1e9),
    "devices_a_node": (1, 10**9),
    "most_devices": (1, 10**9),
}
_RATES_AND_SIZES = (1, 1e24)
_PRECISIONS = get_args(Precision)
_WORDS = {"topology": ("switched", "torus"), "auto_precision": _PRECISIONS}
# For the fields that are tables of numbers.
_KEYS = {
    "mfu": (*get_args(Family), *(f"{family}-{precision}" for family in get_args(Family) for precision in _PRECISIONS)),
    "peak_flops": _PRECISIONS,
}
_MOST_BYTES = 2**20


def read_toml(path: Path) -> dict[str, Any]:
    """Reads the tables of a TOML file; InputError if it cannot be read, is longer than 1 MiB or is not TOML."""
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise InputError(f"{path}: is longer than {_MOST_BYTES:,} bytes; a cluster's description takes a few lines")
        return tomllib.loads(text.decode())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    except RecursionError:
        raise InputError(f"{path}: is not TOML that can be read: brackets are nested too deeply") from None
    # tomllib's errors, and Python's for a number of more than 4,300 digits.
    except ValueError as error:
        raise InputError(f"{path}: is not TOML: {error}") from None


def changed(known: Cluster, values: Mapping[str, Any], path: Path) -> Cluster:
    """Returns `known` with the fields in `values`, named as in `Cluster`, `Link` and `Accelerator`.

    Example:
        like = "h100-node"
        price = 2.1
        [between]
        bytes_per_s = 12.5e9
        [mfu]
        transformer = 0.42

    Raises:
        InputError: naming the file, the field, its value and its bound.
    """
    named = {"name": path.stem, "title": f"{known.title}, as changed by {path.name}", **values}
    if "price" in values:
        named.setdefault("price_source", f"given in {path.name}")
    cluster: Cluster = _changed("", known, named, f"{path}: ")
    return cluster


def _changed(name: str, old: Any, value: Any, label: str) -> Any:
    """Returns what the field called `name`, which is `old` in the known cluster, becomes by `value`."""
    table = isinstance(old, Mapping)
    if table or is_dataclass(old):
        if not isinstance(value, dict):
            raise InputError(f"{label} = {shown(value)}: must be a table of its fields")
        before = old if table else vars(old)
        changes = {}
        for key, each in value.items():
            where = f"{label}{'.' if name else ''}{shown(key, str)}"
            if table and key not in _KEYS[name]:
                raise InputError(f"{where}: must be one of {', '.join(_KEYS[name])}")
            if not table and key not in before:
                raise InputError(f"{where}: no such field; nearest: {nearest(key, before)}")
            found = _changed(name if table else key, 0.0 if table else before[key], each, where)
            changes[key] = Mfu(found, "given") if name == "mfu" else found
        return {**before, **changes} if table else replace(old, **changes)
    if name in _WORDS:
        fits, kind = value in _WORDS[name], f"one of {', '.join(_WORDS[name])}"
    elif isinstance(old, str):
        fits = isinstance(value, str) and value.isprintable() and len(value) <= 200
        kind = "a string of at most 200 printable characters"
    else:
        least, most = _BOUNDS.get(name, _RATES_AND_SIZES)
        whole = isinstance(old, int)
        number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        # Not-a-number is not between two numbers, either.
        fits, kind = (
            number and least <= value <= most,
            f"a{' whole' if whole else ''} number from {least:,} to {most:,}",
        )
    if not fits:
        raise InputError(f"{label} = {shown(value)}: must be {kind}")
    return value


def shown(value: Any, text_of: Callable[[Any], str] = repr) -> str:
    """Returns `value` as a short part of one line."""
    try:
        text = text_of(value)
    except ValueError:
        text = "a number of thousands of digits"
    return text if len(text) <= 60 and text.isprintable() else ascii(text)[1:58] + "..."
