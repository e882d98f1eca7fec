"""Fields that had another name before: reads an old recipe.json, and `--set` of an old name names the new one."""

import copy
from collections.abc import Callable
from typing import Any


def _as_it_is(value: Any) -> Any:
    return value


RENAMED: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "data.padded_with": ("data.padding_mode", lambda value: "reflect" if value == "reflection" else value),
    "data.smallest_area": ("data.scale", lambda value: [value, 1.0]),
    "data.centre": ("data.crop_pct", _as_it_is),
    "data.hole": ("data.cutout", _as_it_is),
    "data.short_probability": ("data.short_seq_prob", _as_it_is),
    "model.zero_init": ("model.zero_init_residual", _as_it_is),
}


def with_new_words(values: dict[str, Any]) -> dict[str, Any]:
    """Returns `values`, a recipe in JSON, with today's names for renamed fields."""
    found = copy.deepcopy(values)
    for old, (new, convert) in RENAMED.items():
        part, _, name = old.partition(".")
        if isinstance(found.get(part), dict) and name in found[part]:
            found[part][new.partition(".")[2]] = convert(found[part].pop(name))
    return found
