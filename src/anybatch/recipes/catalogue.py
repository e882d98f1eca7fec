"""Every recipe by name. A new recipe is one function, listed here."""

import difflib
from collections.abc import Callable

from anybatch.errors import InputError
from anybatch.recipes.bert import bert_demo, bert_demo_adamw, bert_mini, bert_mixed, bert_tiny, squad_demo
from anybatch.recipes.recipe import Recipe

RECIPES: dict[str, Callable[[], Recipe]] = {
    "bert-demo": bert_demo,
    "bert-demo-adamw": bert_demo_adamw,
    "bert-tiny": bert_tiny,
    "bert-mini": bert_mini,
    "bert-mixed": bert_mixed,
    "squad-demo": squad_demo,
}


def find_recipe(name: str) -> Recipe:
    """The recipe called `name`; InputError lists the nearest names, or all."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.4) or list(RECIPES)
        raise InputError(f"no recipe is called {name!r}; nearest: {', '.join(near)} (`anybatch recipes` lists all)")
    return RECIPES[name]()
