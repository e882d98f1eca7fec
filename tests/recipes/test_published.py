"""The recipes that stand for somebody's run have that run's numbers, to the last digit."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from anybatch.data.batch import Batch
from anybatch.engine import Phase
from anybatch.recipes import find_recipe, with_batch_size
from anybatch.recipes.phases import plan_phases


@dataclass
class Endless:
    """More examples than any batch."""

    num_examples: int = 10**6

    def batch(self, epochs: NDArray[np.int64], examples: NDArray[np.int64]) -> Batch:
        raise NotImplementedError


def phases_of(name: str, batch_size: int | None = None) -> list[Phase]:
    recipe = find_recipe(name)
    return plan_phases(recipe if batch_size is None else with_batch_size(recipe, batch_size), lambda _: Endless())


# You et al. 2020: batch, steps, rate, warm-up ratio.
TABLE = [
    (512, 1_000_000, 5 / (2**3.0 * 1e3), 1 / 320),
    (1024, 500_000, 5 / (2**2.5 * 1e3), 1 / 160),
    (2048, 250_000, 5 / (2**2.0 * 1e3), 1 / 80),
    (4096, 125_000, 5 / (2**1.5 * 1e3), 1 / 40),
    (8192, 62_500, 5 / (2**1.0 * 1e3), 1 / 20),
    (16384, 31_250, 5 / (2**0.5 * 1e3), 1 / 10),
    (32768, 15_625, 5 / 1e3, 1 / 5),
]


@pytest.mark.parametrize(("batch_size", "steps", "lr", "warmup"), TABLE)
def test_every_row_of_the_paper_s_table(batch_size: int, steps: int, lr: float, warmup: float) -> None:
    (phase,) = phases_of("bert-large-paper", batch_size)
    assert phase.num_steps == steps
    assert phase.lr == pytest.approx(lr, rel=1e-15)
    assert phase.warmup_steps == round(steps * warmup)
    # eta_0 (1 - t/T): half of it half-way, whatever the warm-up.
    assert phase.schedule(steps // 2) == pytest.approx(1 - (steps // 2) / steps, rel=1e-12)
    assert phase.schedule(phase.warmup_steps - 1) == 1


def test_nvidia_s_two_phases() -> None:
    first, second = phases_of("bert-large-nvidia")
    assert (first.global_batch_size, first.num_steps, first.lr, first.warmup_steps) == (65_536, 7_038, 6e-3, 2_000)
    assert (second.global_batch_size, second.num_steps, second.lr, second.warmup_steps) == (32_768, 1_563, 4e-3, 200)
    assert second.carry_over == "reset_step"
    assert first.schedule(3519) == pytest.approx(0.5**0.5, rel=1e-12)
    recipe = find_recipe("bert-large-nvidia")
    assert [(phase.sequence_length, phase.max_predictions) for phase in recipe.phases] == [(128, 20), (512, 80)]
    assert recipe.max_grad_norm == 1.0
    assert first.hyperparameters == {"lr": 6e-3, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01}
    assert not recipe.optimizer.adapt_excluded


def test_the_mixed_batch_takes_8599_steps() -> None:
    first, second = phases_of("bert-large-mixed")
    assert (first.global_batch_size, second.global_batch_size) == (65_536, 32_768)
    assert first.num_steps + second.num_steps == 8_599
    assert first.num_examples / (first.num_examples + second.num_examples) == pytest.approx(0.9, abs=2e-4)
    assert second.schedule(0) * second.lr < 0.01 * second.lr, "warmed up again from zero"
    assert any("8,599" in each or "7,037" in each for each in find_recipe("bert-large-mixed").inferred)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("bert-large-paper", (24, 1024, 16)),
        ("bert-large-mixed", (24, 1024, 16)),
        ("bert-large-nvidia", (24, 1024, 16)),
        ("bert-base", (12, 768, 12)),
        ("bert-small", (4, 512, 8)),
        ("bert-mini", (4, 256, 4)),
        ("bert-tiny", (2, 128, 2)),
        ("gpt2-small", (12, 768, 12)),
        ("gpt2-medium", (24, 1024, 16)),
        ("gpt2-tiny", (2, 128, 2)),
    ],
)
def test_sizes(name: str, shape: tuple[int, ...]) -> None:
    model: Any = find_recipe(name).model
    assert (model.num_layers, model.hidden_size, model.num_heads) == shape
    assert find_recipe(name).name == name


def test_squad() -> None:
    recipe: Any = find_recipe("squad")
    assert (recipe.phases[0].sequence_length, recipe.data.stride, recipe.reference.num_epochs) == (384, 128, 2)
    assert 3e-5 <= recipe.reference.lr <= 5e-5
    newer: Any = find_recipe("squad-v2")
    assert (newer.data.unanswerable, recipe.data.unanswerable) == (True, False)
    assert newer.phases == recipe.phases


def test_what_is_inferred_is_said_in_words() -> None:
    for name in (
        "bert-large-paper",
        "bert-large-mixed",
        "bert-large-nvidia",
        "bert-base",
        "gpt2-small",
        "squad",
        "squad-v2",
    ):
        assert all(re.search(r"\(|:", each) for each in find_recipe(name).inferred)
