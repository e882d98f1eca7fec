"""Rate, warm-up and steps of each phase: from the reference, or as the user says."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from anybatch.data.batch import Batch
from anybatch.errors import InputError
from anybatch.recipes import change, find_recipe, with_batch_size
from anybatch.recipes.phases import held_out_batches, plan_phases


@dataclass
class Numbers:
    """Example i of epoch e is the number 1000 e + i."""

    num_examples: int = 2048

    def batch(self, epochs: NDArray[np.int64], examples: NDArray[np.int64]) -> Batch:
        return Batch({"x": torch.from_numpy(1000 * epochs + examples)}, {"x": len(examples)}, len(examples))


def test_a_larger_batch_follows_the_rules() -> None:
    recipe = find_recipe("bert-demo")
    (small,) = plan_phases(recipe, lambda _: Numbers())
    (large,) = plan_phases(with_batch_size(recipe, 64), lambda _: Numbers())
    assert small.lr == recipe.reference.lr
    assert large.lr == pytest.approx(2 * small.lr)
    assert (small.num_steps, large.num_steps) == (2048, 512)
    assert small.warmup_steps == large.warmup_steps == 16
    assert large.schedule(15) == 1.0


def test_what_the_user_sets_on_the_optimizer_acts_after_scaling() -> None:
    recipe = change(with_batch_size(find_recipe("bert-demo"), 64), ["optimizer.lr=0.5", "optimizer.warmup_ratio=0.25"])
    (phase,) = plan_phases(recipe, lambda _: Numbers())
    assert phase.lr == 0.5
    assert phase.warmup_steps == 128


def test_what_the_user_sets_on_the_reference_acts_before_scaling() -> None:
    recipe = change(with_batch_size(find_recipe("bert-demo"), 64), ["reference.lr=0.5"])
    (phase,) = plan_phases(recipe, lambda _: Numbers())
    assert phase.lr == pytest.approx(1.0)


def test_epochs_stand_for_examples() -> None:
    recipe = change(find_recipe("squad-demo"), ["reference.num_epochs=3"])
    (phase,) = plan_phases(recipe, lambda _: Numbers(160))
    assert phase.num_steps == 30


@pytest.mark.parametrize(("batch_size", "message"), [(4096, "larger than the data"), (2048, "warm-up ratio")])
def test_a_batch_that_cannot_be_is_explained(batch_size: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_phases(with_batch_size(find_recipe("bert-demo"), batch_size), lambda _: Numbers())


def test_held_out_batches_are_the_same_for_every_run() -> None:
    first, second = (held_out_batches(Numbers(100), 70, size) for size in (16, 64))
    assert [batch.num_examples for batch in second] == [64, 6]
    joined = [torch.cat([batch.inputs["x"] for batch in batches]) for batches in (first, second)]
    assert torch.equal(*joined)
    assert joined[0].max() < 1000
