"""Shapes of parameters are those of the recipes' models."""

import math

import pytest

from anybatch.errors import InputError
from anybatch.machine import shapes


def test_known_sizes() -> None:
    sizes = {name: sum(math.prod(shape) for shape in make()) for name, make in shapes.SETS.items()}
    assert sizes == {"bert-large": 336_226_108, "bert-base": 110_106_428, "resnet-50": 25_557_032, "many-small": 10**7}
    assert [len(make()) for make in shapes.SETS.values()] == [398, 206, 161, 10_000]


def test_every_recipe_has_shapes() -> None:
    assert sum(math.prod(shape) for shape in shapes.find_shapes("gpt2-small")) == 124_439_808
    assert shapes.find_shapes("bert-large-mixed") == shapes.find_shapes("bert-large")


def test_what_is_neither_a_set_nor_a_recipe_is_named() -> None:
    with pytest.raises(InputError, match=r"no set of shapes is called 'bert'; there are bert-large, .* recipe's name"):
        shapes.find_shapes("bert")
