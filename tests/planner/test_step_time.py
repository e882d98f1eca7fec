"""How long a step takes, each part against what it can be computed from by hand."""

from dataclasses import replace

import pytest

from anybatch.planner import PUBLISHED, find_cluster
from anybatch.planner.cluster import Link
from anybatch.planner.device_memory import Layout
from anybatch.planner.step_time import all_reduce_s, expected_slowest, step_time

FAST, SLOW = Link(100e9, 1e-6, efficiency=1.0), Link(10e9, 1e-5, efficiency=1.0)
NODES = replace(find_cluster("a100-node"), inside=FAST, between=SLOW, devices_a_node=8)


def test_ring_inside_a_node():
    assert all_reduce_s(NODES, 8, 8e9) == pytest.approx(2 * 7 / 8 * 0.08 + 14e-6)
    assert all_reduce_s(NODES, 1, 8e9) == 0


def test_the_better_of_ring_and_tree_between_nodes():
    # Latency alone: 2 (N - 1) hops in a ring, 2 log2(N) in a tree; inside the nodes 14 hops.
    assert all_reduce_s(NODES, 8 * 64, 0) == pytest.approx(14e-6 + 12e-5)
    assert all_reduce_s(NODES, 8 * 2, 0) == pytest.approx(14e-6 + 2e-5)
    # Bandwidth: an eighth of the message goes out of each device of a node.
    assert all_reduce_s(NODES, 16, 8e12) == pytest.approx(2 * 7 / 8 * 80 + 1e11 * 10 / 1e10, rel=1e-5)


def test_a_torus_grows_with_its_side():
    torus = Link(100e9, 1e-6, efficiency=1.0, topology="torus")
    assert all_reduce_s(replace(NODES, inside=torus, devices_a_node=1024), 1024, 1e9) == pytest.approx(
        2 * 1023 / 1024 * 0.01 + 4 * 31e-6
    )


def test_a_step_is_its_parts():
    cluster = find_cluster("a100-node")
    workload = PUBLISHED["published-bert-large"](cluster)
    phase = workload.phases[0]
    step = step_time(workload, phase, cluster, 1, 64, Layout(micro_batch_size=64))
    assert step["compute"] == pytest.approx(64 * phase.cost.flops / (312e12 * 0.45))
    assert step["optimizer"] == pytest.approx(40 * 336_226_108 / (2.04e12 * 0.8))
    assert step["all_reduce"] == step["stragglers"] == step["norms"] == 0
    # Twice the micro-batches are twice the launches and no more arithmetic.
    halved = step_time(workload, phase, cluster, 1, 64, Layout(micro_batch_size=32))
    assert (halved["launches"], halved["compute"]) == (pytest.approx(2 * step["launches"]), step["compute"])
    # With an example a device nothing hides the gradients any more.
    many = step_time(workload, phase, cluster, 64, 64, Layout(micro_batch_size=1))
    assert many["all_reduce"] > 5e-3
    checkpointed = step_time(workload, phase, cluster, 1, 64, Layout(checkpointing=True, micro_batch_size=64))
    assert checkpointed["compute"] == pytest.approx(step["compute"] * 4 / 3)


def test_the_slowest_of_many():
    assert expected_slowest(1) == 0
    # The expected greatest of 2 and of 8 normal draws: 0.564, 1.424.
    assert expected_slowest(2) == pytest.approx(0.564, rel=0.05)
    assert expected_slowest(8) == pytest.approx(1.424, rel=0.01)
