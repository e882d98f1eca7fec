"""Every recipe by name. A new recipe is one function, listed here."""

from collections.abc import Callable
from pathlib import Path

from anybatch.errors import InputError
from anybatch.files import read_object
from anybatch.names import nearest
from anybatch.recipes.bert import bert_demo, bert_demo_adamw, bert_mini, bert_mixed, bert_small, bert_tiny, squad_demo
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
from anybatch.recipes.squad import squad, squad_v2

RECIPES: dict[str, Callable[[], Recipe]] = {
    "bert-demo": bert_demo,
    "bert-demo-adamw": bert_demo_adamw,
    "bert-tiny": bert_tiny,
    "bert-mini": bert_mini,
    "bert-small": bert_small,
    "bert-mixed": bert_mixed,
    "bert-base": bert_base,
    "bert-large-paper": bert_large_paper,
    "bert-large-mixed": bert_large_mixed,
    "bert-large-nvidia": bert_large_nvidia,
    "gpt-demo": gpt_demo,
    "gpt-demo-adamw": gpt_demo_adamw,
    "gpt2-tiny": gpt2_tiny,
    "gpt2-small": gpt2_small,
    "gpt2-medium": gpt2_medium,
    "squad": squad,
    "squad-v2": squad_v2,
    "squad-demo": squad_demo,
    "digits-lenet": digits_lenet,
    "mnist-lenet": mnist_lenet,
    "cifar10-davidnet": cifar10_davidnet,
    "cifar10-resnet20": cifar10_resnet20,
    "resnet50-paper": resnet50_paper,
    "resnet50-author": resnet50_author,
    "resnet50-mlperf-lars": resnet50_mlperf_lars,
    "resnet50-mlperf-lars-64k": resnet50_mlperf_lars_64k,
    "resnet50-nesterov": resnet50_nesterov,
}


def find_recipe(name: str) -> Recipe:
    """Returns the recipe called `name`, or the one in the JSON file `name`; InputError lists the nearest names."""
    if name.endswith(".json") or name.startswith("/dev/fd/"):
        return from_json(read_object(Path(name)))
    if name not in RECIPES:
        raise InputError(
            f"no recipe is called {name!r}; nearest: {nearest(name, RECIPES)} (`anybatch recipes` lists all)"
        )
    return RECIPES[name]()
