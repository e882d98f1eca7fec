"""Every option with the line that stands under its field: what `anybatch recipes NAME` and docs/options.md show."""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from itertools import pairwise
from typing import Any

from anybatch.recipes.recipe import Recipe


def options_of(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Every option of `recipe`, as `--set` names it: {"value": in JSON, "line": the line under its field}."""
    return dict(_options(recipe, recipe.model_dump(mode="json"), ""))


def _options(part: Any, values: Any, prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, line in field_lines(part.__class__).items():
        value = getattr(part, name)
        several = isinstance(value, tuple) and value and is_dataclass(value[0])
        for number, each in enumerate(value if several else [value]):
            full = f"{prefix}{name}.{number}" if several else f"{prefix}{name}"
            found = values[name][number] if several else values[name]
            if is_dataclass(each):
                yield from _options(each, found, f"{full}.")
            else:
                yield full, {"value": found, "line": line}


@cache
def field_lines(kind: type) -> dict[str, str]:
    """The line under each field of a class and of its bases, by the field's name.

    Example:
        >>> from anybatch.recipes.recipe import ImagePhaseSettings
        >>> field_lines(ImagePhaseSettings)["image_size"]
        'Width and height of an image, in pixels.'
    """
    found = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("anybatch."):
            (definition,) = ast.parse(inspect.getsource(base)).body
            for field, below in pairwise(getattr(definition, "body", ())):
                match field, below:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                        found[name] = " ".join(text.split("\n\n")[0].split())
    return found
