"""What fits on a device, and which layout is chosen."""

from dataclasses import replace

import pytest

from anybatch.planner import PUBLISHED, find_cluster, workload_of
from anybatch.planner.device_memory import Layout, activation_bytes, choose_layout, memory
from anybatch.recipes import find_recipe


def test_memory_by_layout():
    workload, size = PUBLISHED["published-bert-large"](find_cluster("a100-node")), 336_226_108
    phase = workload.phases[0]
    whole = memory(workload, phase, Layout(micro_batch_size=0), 8)
    assert whole == pytest.approx(size * (4 + 2 + 4 + 8))
    sharded = memory(workload, phase, Layout(fsdp=True, micro_batch_size=0), 8)
    assert sharded == pytest.approx(size * 16 / 8 + 2 * workload.largest_unit * 2)
    # Word, position and segment embeddings, pooler and heads, beside 24 layers.
    assert workload.largest_unit == size - 24 * (12 * 1024**2 + 13 * 1024)
    kept, recomputed = (activation_bytes(phase, Layout(checkpointing=each)) for each in (False, True))
    assert 0 < recomputed < kept < whole
    assert memory(workload, phase, Layout(micro_batch_size=3), 8) == pytest.approx(whole + 3 * kept)
    momentum = memory(workload.with_optimizer("momentum"), phase, Layout(micro_batch_size=0), 8)
    assert momentum == pytest.approx(whole - size * 4)


def test_the_plainest_layout_that_fits_is_chosen():
    cluster = find_cluster("a100-node")
    workload = PUBLISHED["published-bert-large"](cluster)
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


def test_examples_that_the_model_looks_at_together_are_not_cut():
    cluster = find_cluster("h100-node")
    workload = workload_of(find_recipe("resnet50-paper"), cluster)
    layout = choose_layout(workload, workload.phases[0], cluster, 8, 4096)
    assert layout is not None
    assert layout.micro_batch_size == workload.group_size == 64
    tiny = replace(cluster, accelerator=replace(cluster.accelerator, memory_bytes=2.5e9))
    assert choose_layout(workload, workload.phases[0], tiny, 8, 4096) is None
