"""A recipe as a workload."""

import pytest

from anybatch.errors import InputError
from anybatch.planner import find_cluster, workload_of
from anybatch.planner.workload import STATE_BYTES, STEP_BYTES
from anybatch.recipes import change, find_recipe
from anybatch.recipes.optimizers import OPTIMIZERS

CLUSTER = find_cluster("h100-node")


def test_parameters_and_tensors_are_those_of_the_model():
    workload = workload_of(find_recipe("bert-large-mixed"), CLUSTER)
    assert (workload.parameters, workload.num_tensors) == (336_226_108, 398)
    assert [phase.title for phase in workload.phases] == ["sequence 128", "sequence 512"]
    assert [phase.batch_ratio for phase in workload.phases] == [1, 0.5]
    assert workload_of(find_recipe("resnet50-paper"), CLUSTER).family == "convolution"


def test_a_recipe_with_longer_examples_costs_more():
    recipe = find_recipe("bert-tiny")
    changed = change(recipe, ["phases.0.sequence_length=256", "model.max_positions=256"])
    short, long = workload_of(recipe, CLUSTER), workload_of(changed, CLUSTER)
    assert long.phases[0].cost.flops > 2 * short.phases[0].cost.flops


def test_the_largest_batch_leaves_steps_after_warm_up():
    examples = workload_of(find_recipe("bert-tiny"), CLUSTER).examples
    assert examples.largest_batch == 2047, "32 / (1/64) - 1: beyond, warm-up takes the whole run"
    assert examples.advised_batch == 409, "a fifth of the steps"
    paper = workload_of(find_recipe("bert-large-paper"), CLUSTER).examples
    assert paper.advised_batch == 32_768


def test_epochs_of_images_are_a_length_and_epochs_of_text_are_not():
    workload = workload_of(find_recipe("resnet50-paper"), CLUSTER)
    assert workload.examples.num_examples == 90 * 1_281_167 == 90 * workload.epoch_examples
    by_epochs = change(find_recipe("bert-tiny"), ["reference.num_examples=null", "reference.num_epochs=3"])
    with pytest.raises(InputError, match=r"give reference\.num_examples for a plan"):
        workload_of(by_epochs, CLUSTER)


def test_every_optimizer_of_the_recipes_has_its_bytes():
    assert STEP_BYTES.keys() == STATE_BYTES.keys() == OPTIMIZERS.keys()


def test_a_step_of_muon_has_products():
    recipe = find_recipe("bert-tiny")
    muon = workload_of(change(recipe, ["optimizer.name=muon", "optimizer.options={}"]), CLUSTER)
    # Five iterations of X X^T, A A and B X for six matrices a layer: 128 x 128, and 128 x 512 twice.
    square, wide = 5 * (3 * 2 * 128**3), 5 * (2 * 2 * 128**2 * 512 + 2 * 128**3)
    assert muon.optimizer_flops == pytest.approx(2 * (4 * square + 2 * wide), rel=0.2)
    assert workload_of(recipe, CLUSTER).optimizer_flops == 0


def test_an_optimizer_of_ones_own_costs_as_much_as_adamw():
    workload = workload_of(change(find_recipe("bert-tiny"), ["optimizer.name=torch.optim:RMSprop"]), CLUSTER)
    assert workload.optimizer == "adamw"
    assert "a step of torch.optim:RMSprop costs as much as AdamW's" in workload.supposed
