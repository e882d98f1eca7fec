"""The parameters of models as shapes, from the recipes' models: a step can be measured without data."""

from collections.abc import Callable
from functools import partial

from anybatch.errors import InputError
from anybatch.recipes import RECIPES, find_recipe
from anybatch.recipes.tasks import outline

Shape = tuple[int, ...]


def recipe_shapes(name: str) -> list[Shape]:
    """Returns the shapes of the parameters of a recipe's model."""
    return [tuple(p.shape) for p in outline(find_recipe(name)).model.parameters()]


def many_small() -> list[Shape]:
    """Returns 10,000 tensors of 1,000 elements: the cost of a step when memory hardly matters."""
    return [(1_000,)] * 10_000


# The default sets.
SETS: dict[str, Callable[[], list[Shape]]] = {
    "bert-large": partial(recipe_shapes, "bert-large-paper"),
    "bert-base": partial(recipe_shapes, "bert-base"),
    "resnet-50": partial(recipe_shapes, "resnet50-paper"),
    "many-small": many_small,
}


def find_shapes(name: str) -> list[Shape]:
    """Returns the shapes of the set or the recipe called `name`; InputError if there is neither."""
    if name in SETS:
        return SETS[name]()
    if name not in RECIPES:
        raise InputError(f"no set of shapes is called {name!r}; there are {', '.join(SETS)}, and every recipe's name")
    return recipe_shapes(name)
