"""The parts of a prediction, each against what it can be computed from by hand."""

from dataclasses import replace

import pytest

from anybatch.planner import NAMED, find_cluster
from anybatch.planner.collectives import Link, all_reduce_s
from anybatch.planner.examples import Curve, Law
from anybatch.planner.memory import Layout, choose_layout, memory
from anybatch.planner.step_time import expected_slowest, step_time
from anybatch.planner.workload import bert_parameters, bert_phase
from anybatch.recipes import change, find_recipe
from anybatch.recipes.builtin_text import VOCABULARY_SIZES

FAST, SLOW = Link(100e9, 1e-6, achieved=1.0), Link(10e9, 1e-5, achieved=1.0)


def test_ring_inside_a_node():
    assert all_reduce_s(8e9, 8, 8, FAST, SLOW) == pytest.approx(2 * 7 / 8 * 0.08 + 14e-6)
    assert all_reduce_s(8e9, 1, 8, FAST, SLOW) == 0


def test_the_better_of_ring_and_tree_between_nodes():
    # Latency alone: 2 (N - 1) hops in a ring, 2 log2(N) in a tree; inside the nodes 14 hops.
    assert all_reduce_s(0, 8 * 64, 8, FAST, SLOW) == pytest.approx(14e-6 + 12e-5)
    assert all_reduce_s(0, 8 * 2, 8, FAST, SLOW) == pytest.approx(14e-6 + 2e-5)
    # Bandwidth: an eighth of the message goes out of each device of a node.
    assert all_reduce_s(8e12, 16, 8, FAST, SLOW) == pytest.approx(2 * 7 / 8 * 80 + 1e11 * 10 / 1e10, rel=1e-5)


def test_a_torus_grows_with_its_side():
    torus = Link(100e9, 1e-6, achieved=1.0, topology="torus")
    assert all_reduce_s(1e9, 1024, 1024, torus, torus) == pytest.approx(2 * 1023 / 1024 * 0.01 + 4 * 31e-6)


def test_bert_has_the_parameters_that_transformers_counts():
    from anybatch.models import BertSettings, pretraining_model

    recipe = find_recipe("bert-demo")
    model = pretraining_model(
        BertSettings(vocabulary_size=VOCABULARY_SIZES["wordpiece"], **recipe.model.model_dump(exclude={"path"})), 0
    )
    counted = sum(p.numel() for p in model.parameters())
    shape = (recipe.model.hidden_size, recipe.model.num_layers, recipe.model.max_positions)
    assert bert_parameters(VOCABULARY_SIZES["wordpiece"], *shape) == counted
    assert bert_parameters(30_522, 1024, 24, 512) == 336_226_108


def test_bert_costs_six_flops_a_parameter_and_token():
    phase = bert_phase("", vocabulary_size=30_522, hidden_size=1024, num_layers=24, sequence_length=128, num_masked=0)
    in_layers = 24 * 12 * 1024**2
    attention = 3 * 24 * 4 * 128**2 * 1024
    assert phase.flops == pytest.approx(6 * in_layers * 128 + attention)


def test_memory_by_layout():
    workload, size = NAMED["bert-large"](), 336_226_108
    phase = workload.phases[0]
    whole = memory(workload, phase, Layout(micro_batch_size=0), 8)
    assert whole.total == pytest.approx(size * (4 + 2 + 4 + 8))
    sharded = memory(workload, phase, Layout(fsdp=True, micro_batch_size=0), 8)
    assert sharded.total == pytest.approx(size * 16 / 8 + 2 * 30_522 * 1024 * 2)
    assert memory(workload, phase, Layout(checkpointing=True), 8).activations < whole.total
    assert memory(workload.with_optimizer("momentum"), phase, Layout(), 8).states == pytest.approx(size * 4)


def test_the_plainest_layout_that_fits_is_chosen():
    workload, cluster = NAMED["bert-large"](), find_cluster("a100-node")
    phase = workload.phases[1]
    assert choose_layout(workload, phase, cluster, 8, 4) == Layout(micro_batch_size=4)
    # More than fits is cut into equal parts.
    cut = choose_layout(workload, phase, cluster, 8, 1000)
    assert cut is not None
    assert 1000 / cut.micro_batch_size == pytest.approx(-(-1000 // cut.micro_batch_size), abs=0.1)
    large = replace(workload, parameters=20 * workload.parameters)
    assert choose_layout(large, phase, cluster, 8, 4) == Layout(fsdp=True, micro_batch_size=4)
    assert choose_layout(large, phase, cluster, 1, 4) is None
    tiny = replace(cluster, accelerator=replace(cluster.accelerator, memory_bytes=2e9))
    assert choose_layout(workload, phase, tiny, 64, 1) == Layout(fsdp=True, checkpointing=False, micro_batch_size=1)


def test_a_step_is_its_parts():
    workload, cluster = NAMED["bert-large"](), find_cluster("a100-node")
    phase = workload.phases[0]
    step = step_time(workload, phase, cluster, 1, 64, Layout(micro_batch_size=64))
    assert step.compute == pytest.approx(64 * phase.flops / (312e12 * 0.45))
    assert step.optimizer == pytest.approx(40 * 336_226_108 / (2.04e12 * 0.8))
    assert step.all_reduce == step.stragglers == step.norms == 0
    # Twice the micro-batches are twice the kernels and no more arithmetic.
    halved = step_time(workload, phase, cluster, 1, 64, Layout(micro_batch_size=32))
    assert (halved.kernels, halved.compute) == (pytest.approx(2 * step.kernels), step.compute)
    # With an example a device nothing hides the gradients any more.
    many = step_time(workload, phase, cluster, 64, 64, Layout(micro_batch_size=1))
    assert many.all_reduce > 5e-3
    checkpointed = step_time(workload, phase, cluster, 1, 64, Layout(checkpointing=True, micro_batch_size=64))
    assert checkpointed.compute == pytest.approx(step.compute * 4 / 3)


def test_the_slowest_of_many():
    assert expected_slowest(1) == 0
    # The expected greatest of 2 and of 8 normal draws: 0.564, 1.424.
    assert expected_slowest(2) == pytest.approx(0.564, rel=0.05)
    assert expected_slowest(8) == pytest.approx(1.424, rel=0.01)


def test_examples_by_batch():
    law = Law(reference_examples=1000, reference_batch=32, critical_batch=320)
    assert law.at(32) == pytest.approx(1000)
    assert law.at(320) == pytest.approx(1000 * 2 / 1.1)
    curve = Curve(((10, 100.0), (20, 200.0), (40, 220.0)), "")
    assert [curve.at(batch) for batch in (5, 10, 15, 20, 30, 60)] == [100, 100, 150, 200, 210, 240]


def test_a_recipe_with_longer_examples_costs_more():
    from anybatch.planner.from_recipe import workload_of

    recipe = find_recipe("bert-tiny")
    short, long = workload_of(recipe), workload_of(change(recipe, ["phases.0.sequence_length=256"]))
    assert long.phases[0].flops > 2 * short.phases[0].flops
    assert short.examples.largest_batch == 2047, "32 / (1/64) - 1: beyond, warm-up takes the whole run"
