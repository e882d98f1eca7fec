"""The tables of the paper, from one row of each."""

import ast
import dataclasses
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import anybatch.scaling
from anybatch.scaling import Reference, linear, square_root

BERT = Reference(512, lr=5 / (2**3 * 10**3), warmup_ratio=1 / 320, num_examples=512_000_000)
IMAGENET = 1_281_167
RESNET = Reference(512, lr=4 / (2**3 * 100), warmup_ratio=0.3125 / 90, num_examples=90 * IMAGENET)

# batch, power of two under 5/10^3, warm-up ratio, steps
BERT_TABLE = [
    (512, 3.0, 1 / 320, 1_000_000),
    (1024, 2.5, 1 / 160, 500_000),
    (2048, 2.0, 1 / 80, 250_000),
    (4096, 1.5, 1 / 40, 125_000),
    (8192, 1.0, 1 / 20, 62_500),
    (16384, 0.5, 1 / 10, 31_250),
    (32768, 0.0, 1 / 5, 15_625),
]
# batch, power of two under 4/100, warm-up epochs
RESNET_TABLE = [
    (512, 3.0, 0.3125),
    (1024, 2.5, 0.625),
    (2048, 2.0, 1.25),
    (4096, 1.5, 2.5),
    (8192, 1.0, 5.0),
    (16384, 0.5, 10.0),
    (32768, 0.0, 20.0),
]


def assert_lr(lr: Any, expected: Any, power: Any) -> None:
    if power == int(power):
        assert lr == expected
    else:
        assert abs(lr - expected) <= math.ulp(expected)


@pytest.mark.parametrize(("batch_size", "power", "ratio", "steps"), BERT_TABLE)
def test_bert_table(batch_size: Any, power: Any, ratio: Any, steps: Any) -> None:
    scaled = BERT.at(batch_size)
    assert_lr(scaled.lr, 5 / (2**power * 10**3), power)
    assert scaled.warmup_ratio == ratio
    assert scaled.num_steps == steps
    assert scaled.warmup_steps == 3125


@pytest.mark.parametrize(("batch_size", "power", "epochs"), RESNET_TABLE)
def test_resnet_table(batch_size: Any, power: Any, epochs: Any) -> None:
    scaled = RESNET.at(batch_size)
    assert_lr(scaled.lr, 4 / (2**power * 100), power)
    assert scaled.warmup_ratio == epochs / 90
    assert scaled.warmup_steps == round(epochs * IMAGENET / batch_size)
    assert scaled.num_steps == math.ceil(90 * IMAGENET / batch_size)


def test_any_row_gives_the_table() -> None:
    for batch_size, power, ratio, _ in BERT_TABLE:
        reference = dataclasses.replace(BERT, batch_size=batch_size, lr=5 / (2**power * 10**3), warmup_ratio=ratio)
        for other, other_power, other_ratio, steps in BERT_TABLE:
            scaled = reference.at(other)
            expected = 5 / (2**other_power * 10**3)
            assert abs(scaled.lr - expected) <= 2 * math.ulp(expected)
            assert (scaled.warmup_ratio, scaled.num_steps, scaled.warmup_steps) == (other_ratio, steps, 3125)


@pytest.mark.parametrize("rule", ["sqrt", "linear"])
def test_the_reference_returns_itself(rule: Any) -> None:
    reference = Reference(
        48, lr=0.00123, warmup_ratio=0.1, num_examples=100_000, rule=rule, decay="cosine", join="global"
    )
    scaled = reference.at(48)
    assert (scaled.lr, scaled.warmup_ratio, scaled.num_examples) == (0.00123, 0.1, 100_000)
    assert (scaled.num_steps, scaled.warmup_steps) == (2084, 208)
    assert (scaled.decay, scaled.power, scaled.join) == ("cosine", 1.0, "global")


def test_rules() -> None:
    assert square_root(0.1, 400, 100) == 0.2
    assert linear(0.1, 400, 100) == 0.4
    assert dataclasses.replace(BERT, rule="linear").at(1024).lr == 2 * BERT.lr


def test_the_schedule_is_the_scaled_one() -> None:
    scaled = BERT.at(32768)
    assert scaled.schedule(0) == 1 / 3125
    assert scaled.schedule(3124) == scaled.schedule(3125) == 1
    assert scaled.schedule(15624) == pytest.approx(1 / 12500)
    assert Reference(8, lr=1.0, warmup_ratio=0.5, num_examples=80, join="global").at(8).schedule(5) == 0.5


@pytest.mark.parametrize("warmup_ratio", [1 / 320, 0.2843, 1 / 3, 0.99])
@pytest.mark.parametrize("batch_size", [7, 512])
def test_the_largest_batch_is_the_largest(batch_size: Any, warmup_ratio: Any) -> None:
    reference = Reference(batch_size, lr=1.0, warmup_ratio=warmup_ratio, num_examples=10**9)
    with pytest.raises(ValueError, match="the largest batch is") as caught:
        reference.at(10**8)
    largest = int(re.search(r"the largest batch is (\d+): lower", str(caught.value))[1])
    assert reference.at(largest).warmup_ratio < 1
    with pytest.raises(
        ValueError, match=f"batch_size={largest + 1} has a warm-up ratio of 1.*the largest batch is {largest}"
    ):
        reference.at(largest + 1)


def test_163840_is_all_warm_up() -> None:
    with pytest.raises(
        ValueError,
        match=r"batch_size=163840 has a warm-up ratio of 1, .* is 163839: lower .*warmup_ratio, .*warmup_rule=",
    ):
        BERT.at(163840)


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, 512.0, True, "512", None])
def test_a_batch_is_a_positive_int(batch_size: Any) -> None:
    with pytest.raises(ValueError, match=r"batch_size=.* is not an int of at least 1"):
        BERT.at(batch_size)


def test_a_batch_has_no_more_examples_than_the_run() -> None:
    with pytest.raises(ValueError, match="batch_size=101 is more than num_examples=100"):
        Reference(10, lr=1.0, warmup_ratio=0.0, num_examples=100).at(101)
    assert Reference(10, lr=1.0, warmup_ratio=0.0, num_examples=100).at(100).num_steps == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 0), ("batch_size", 1.0), ("lr", 0.0), ("lr", math.nan), ("lr", math.inf), ("warmup_ratio", 1.0),
        ("warmup_ratio", -0.1), ("warmup_ratio", math.nan), ("num_examples", 511), ("num_examples", 1e9),
        ("rule", "cube"), ("decay", "step"), ("power", 0.0), ("join", "none"),
    ],
)  # fmt: skip
def test_fields_are_checked(field: Any, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{field}="):
        dataclasses.replace(BERT, **{field: value})


def test_the_rules_import_the_standard_library_alone() -> None:
    for file in Path(anybatch.scaling.__file__).parent.glob("*.py"):
        # It looks at gradients.
        if file.name == "meter.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.startswith("anybatch.scaling.") or name.split(".")[0] in sys.stdlib_module_names, (
                    file,
                    name,
                )
