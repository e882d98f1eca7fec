"""Every recipe by name. A new recipe is one function, listed here."""

from collections.abc import Callable
from pathlib import Path

from anybatch.errors import InputError
from anybatch.files import read_object
from anybatch.names import nearest
from anybatch.recipes.bert import bert_demo, bert_demo_adamw, bert_mini, bert_mixed, bert_small, bert_tiny
from anybatch.recipes.bert_large import bert_base, bert_large_mixed, bert_large_nvidia, bert_large_paper
from anybatch.recipes.gpt import gpt2_medium, gpt2_small, gpt2_tiny, gpt_demo, gpt_demo_adamw
from anybatch.recipes.recipe import Recipe, from_json
from anybatch.recipes.resnet50 import (
    resnet50_author,
    resnet50_mlperf_lars,
    resnet50_mlperf_lars_64k,
    resnet50_nesterov,
    resnet50_paper,
)
from anybatch.recipes.small_images import cifar10_davidnet, cifar10_resnet20, digits_lenet, mnist_lenet
from anybatch.recipes.squad import squad, squad_demo, squad_v2

_FUNCTIONS: tuple[Callable[[], Recipe], ...] = (
    *(bert_demo, bert_demo_adamw, bert_tiny, bert_mini, bert_small, bert_mixed),
    *(bert_base, bert_large_paper, bert_large_mixed, bert_large_nvidia),
    *(gpt_demo, gpt_demo_adamw, gpt2_tiny, gpt2_small, gpt2_medium),
    *(squad, squad_v2, squad_demo),
    *(digits_lenet, mnist_lenet, cifar10_davidnet, cifar10_resnet20),
    *(resnet50_paper, resnet50_author, resnet50_mlperf_lars, resnet50_mlperf_lars_64k, resnet50_nesterov),
)
# A recipe is called as its function, with hyphens.
RECIPES: dict[str, Callable[[], Recipe]] = {make.__name__.replace("_", "-"): make for make in _FUNCTIONS}


def find_recipe(name: str) -> Recipe:
    """Returns the recipe called `name`, or the one in the JSON file `name`; InputError lists the nearest names."""
    if name.endswith(".json") or name.startswith("/dev/fd/"):
        return from_json(read_object(Path(name)))
    if name not in RECIPES:
        raise InputError(
            f"no recipe is called {name!r}; nearest: {nearest(name, RECIPES)} (`anybatch recipes` lists all)"
        )
    return RECIPES[name]()
