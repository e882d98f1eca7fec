"""Precision and MFU of a cluster."""

from dataclasses import replace

import pytest

from anybatch.errors import InputError
from anybatch.planner import find_cluster
from anybatch.planner.cluster import Mfu


def test_precision_is_what_the_engine_computes_in():
    h100 = find_cluster("h100-node")
    assert h100.arithmetic("auto", "transformer") == "bf16"
    assert h100.arithmetic("fp32", "transformer") == "fp32"
    assert h100.arithmetic("fp32", "convolution") == "tf32"
    assert find_cluster("rx7900xtx-box").arithmetic("fp32", "convolution") == "fp32"


def test_fp8_is_for_submissions_on_hardware_whose_share_is_known():
    assert find_cluster("h100-node").arithmetic("fp8", "transformer") == "fp8"
    assert find_cluster("a100-node").arithmetic("fp8", "transformer") == "bf16"
    assert find_cluster("h100-node").arithmetic("fp8", "convolution") == "bf16"


def test_a_card_without_units_is_named():
    cluster = find_cluster("a100-node")
    old = replace(cluster, accelerator=replace(cluster.accelerator, name="V100", peak_flops={"fp32": 15e12}))
    with pytest.raises(InputError, match=r"engine\.precision = bf16: V100 has units for fp32 only"):
        old.arithmetic("bf16", "transformer")


def test_shares_of_fp8_submissions_are_not_those_of_bf16_runs():
    for name in ("h100-node", "h200-node", "h100-pcie-node"):
        cluster = find_cluster(name)
        submitted, own = (cluster.flops("transformer", precision) for precision in ("fp8", "bf16"))
        assert own < 0.8 * submitted
        assert "FP8" in cluster.mfu_of("transformer", "fp8").source
        assert not cluster.mfu_of("transformer", "bf16").measured


def test_fp32_is_at_most_half_as_fast_as_16_bits():
    for name in ("h100-node", "a100-node", "l40s-node", "rtx4090-box"):
        cluster = find_cluster(name)
        for precision in ("fp32", "tf32"):
            assert cluster.flops("transformer", precision) <= 0.501 * cluster.flops("transformer", "bf16")
            assert not cluster.mfu_of("transformer", precision).measured


def test_a_share_of_ones_own_is_for_one_precision():
    cluster = find_cluster("h100-node")
    changed = cluster.with_mfu("transformer", "bf16", Mfu(0.3, "mine"))
    assert changed.mfu_of("transformer", "bf16").share == 0.3
    assert changed.mfu_of("transformer", "fp8") == cluster.mfu_of("transformer", "fp8")
