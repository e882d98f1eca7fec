"""Accelerators as data: what the makers say, and which share of it real training was seen to reach."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# What kind of arithmetic dominates a model; accelerators reach different shares of their peak on each.
Family = Literal["transformer", "convolution"]
Precision = Literal["bf16", "fp32"]


@dataclass(frozen=True)
class Achieved:
    """`share` of the dense bf16 peak that the model's own FLOPs reach at a large micro-batch, and where that is from.

    `measured` is False where it was carried over from another accelerator or assumed.
    """

    share: float
    source: str
    measured: bool = True


@dataclass(frozen=True)
class Accelerator:
    """One device. FLOP/s dense; memory in bytes and bytes/s; power in watts at full load.

    `kernel_s` is the least time that one kernel takes however little it computes: what keeps small batches from being
    fast.
    """

    name: str
    peak_flops: float
    peak_flops_fp32: float
    memory_bytes: float
    memory_bytes_per_s: float
    power_w: float | None
    achieved: Mapping[Family, Achieved]
    kernel_s: float = 4e-6

    def flops(self, family: Family, precision: Precision) -> float:
        """FLOP/s that a model of `family` gets."""
        peak = self.peak_flops if precision == "bf16" else self.peak_flops_fp32
        return peak * self.achieved[family].share


_MLPERF = "fitted to MLPerf Training v4.0 on one node"
_GIB = 2.0**30

# Peaks, memories and powers: the makers' data sheets (TPUv3: cloud.google.com/tpu/docs/v3, mean power as measured
# there). A100: NVIDIA's BERT-large (580 sequences/s of 128) and ResNet-50 (2,470 images/s) on one card. Fitted shares
# are printed by benchmarks/planner_against_the_world.py.
TPU_V3 = Accelerator(
    name="TPUv3 chip",
    peak_flops=123e12,
    peak_flops_fp32=15e12,
    memory_bytes=32 * _GIB,
    memory_bytes_per_s=900e9,
    power_w=220,
    achieved={
        "transformer": Achieved(0.345, "fitted to the LAMB paper's rows on 16 to 64 chips"),
        "convolution": Achieved(0.2, "assumed", measured=False),
    },
)
A100 = Accelerator(
    name="A100-SXM 80 GB",
    peak_flops=312e12,
    peak_flops_fp32=156e12,
    memory_bytes=80 * _GIB,
    memory_bytes_per_s=2.04e12,
    power_w=400,
    achieved={
        "transformer": Achieved(0.45, "NVIDIA DeepLearningExamples, BERT-large on one card"),
        "convolution": Achieved(0.195, "NVIDIA DeepLearningExamples, ResNet-50 on one card"),
    },
)
H100 = Accelerator(
    name="H100-SXM 80 GB",
    peak_flops=989e12,
    peak_flops_fp32=494e12,
    memory_bytes=80 * _GIB,
    memory_bytes_per_s=3.35e12,
    power_w=700,
    achieved={"transformer": Achieved(0.563, _MLPERF + ", FP8"), "convolution": Achieved(0.197, _MLPERF)},
)
H100_PCIE = Accelerator(
    name="H100-PCIe 80 GB",
    peak_flops=756e12,
    peak_flops_fp32=378e12,
    memory_bytes=80 * _GIB,
    memory_bytes_per_s=2.0e12,
    power_w=350,
    achieved={"transformer": Achieved(0.355, _MLPERF + ", FP8"), "convolution": Achieved(0.167, _MLPERF)},
)
H200 = Accelerator(
    name="H200-SXM 141 GB",
    peak_flops=989e12,
    peak_flops_fp32=494e12,
    memory_bytes=141e9,
    memory_bytes_per_s=4.8e12,
    power_w=700,
    achieved={
        "transformer": Achieved(0.568, "MLPerf Training v4.0, BERT on one node of eight: 7,990 sequences/s, FP8"),
        "convolution": Achieved(0.218, _MLPERF),
    },
)
L40S = Accelerator(
    name="L40S 48 GB",
    peak_flops=362e12,
    peak_flops_fp32=91.6e12,
    memory_bytes=48e9,
    memory_bytes_per_s=864e9,
    power_w=350,
    achieved={"transformer": Achieved(0.202, _MLPERF), "convolution": Achieved(0.138, _MLPERF)},
)
RTX_4090 = Accelerator(
    name="RTX 4090 24 GB",
    peak_flops=165e12,
    peak_flops_fp32=82.6e12,
    memory_bytes=24 * _GIB,
    memory_bytes_per_s=1008e9,
    power_w=450,
    achieved={
        "transformer": Achieved(0.4, "assumed: a little below the L40S, which has the same chip", measured=False),
        "convolution": Achieved(0.162, _MLPERF + ", tinygrad"),
    },
)
RX_7900_XTX = Accelerator(
    name="RX 7900 XTX 24 GB",
    peak_flops=123e12,
    peak_flops_fp32=61.4e12,
    memory_bytes=24 * _GIB,
    memory_bytes_per_s=960e9,
    power_w=355,
    achieved={
        "transformer": Achieved(0.2, "assumed", measured=False),
        "convolution": Achieved(0.158, _MLPERF + ", tinygrad"),
    },
)
