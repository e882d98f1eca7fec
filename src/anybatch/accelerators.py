"""Accelerators: torch's names for them; their dense peaks by precision, memory and power, from data sheets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# "tf32": fp32 values multiplied by tensor cores with ten bits of mantissa. "fp8": in submissions to benchmarks only.
Precision = Literal["fp32", "tf32", "fp16", "bf16", "fp8"]


@dataclass(frozen=True)
class Accelerator:
    """One device.

    Args:
        name: the common name.
        peak_flops: FLOP/s of dense matrix products that accumulate in fp32, by precision; a precision that the hardware
            has no units for is missing.
        memory_bytes, memory_bytes_per_s: size and bandwidth of the device's memory.
        power_w: at full load; None if unknown.
        device_names: torch's names for it, without the maker's name.
    """

    name: str
    peak_flops: Mapping[Precision, float]
    memory_bytes: float
    memory_bytes_per_s: float
    power_w: float | None = None
    device_names: tuple[str, ...] = ()


def _card(name: str, *device_names: str, gb: float, gb_per_s: float, watts: float, **teraflops: float) -> Accelerator:
    peaks: dict[Precision, float] = {key: round(1e12 * peak) for key, peak in teraflops.items()}  # type: ignore[misc]
    return Accelerator(name, peaks, 1e9 * gb, 1e9 * gb_per_s, watts, device_names)


# Each line's source is the maker's data sheet of the card, unless another is named. Data sheets that print the peaks
# of tensor cores "with sparsity" (L4, L40S, Hopper, Blackwell) are halved. 80 GB of HBM are 80 GiB, 85.9e9 bytes.
TPU_V3 = _card("TPUv3 chip", gb=34.36, gb_per_s=900, watts=220, fp32=15, bf16=123)  # cloud.google.com/tpu/docs/v3
A100 = _card("A100-SXM 80 GB", "A100-SXM4-80GB",
             gb=85.9, gb_per_s=2040, watts=400, fp32=19.5, tf32=156, fp16=312, bf16=312)  # fmt: skip
H100 = _card("H100-SXM 80 GB", "H100 80GB HBM3",
             gb=85.9, gb_per_s=3350, watts=700, fp32=67, tf32=494, fp16=989, bf16=989, fp8=1979)  # fmt: skip
H100_PCIE = _card("H100-PCIe 80 GB", "H100 PCIe",
                  gb=85.9, gb_per_s=2000, watts=350, fp32=51, tf32=378, fp16=756, bf16=756, fp8=1513)  # fmt: skip
H200 = _card("H200-SXM 141 GB", "H200",
             gb=141, gb_per_s=4800, watts=700, fp32=67, tf32=494, fp16=989, bf16=989, fp8=1979)  # fmt: skip
L40S = _card("L40S 48 GB", "L40S",
             gb=48, gb_per_s=864, watts=350, fp32=91.6, tf32=183, fp16=362, bf16=362, fp8=733)  # fmt: skip
# GeForce: NVIDIA's Ada and Ampere GA102 whitepapers, the peaks that accumulate in fp32.
RTX_4090 = _card("RTX 4090 24 GB", "GeForce RTX 4090",
                 gb=25.77, gb_per_s=1008, watts=450, fp32=82.6, tf32=82.6, fp16=165, bf16=165, fp8=330)  # fmt: skip
RX_7900_XTX = _card("RX 7900 XTX 24 GB", "Radeon RX 7900 XTX",
                    gb=25.77, gb_per_s=960, watts=355, fp32=61.4, fp16=123, bf16=123)  # fmt: skip

ACCELERATORS = (
    TPU_V3,
    A100,
    H100,
    H100_PCIE,
    H200,
    L40S,
    RTX_4090,
    RX_7900_XTX,
    _card("T4 16 GB", "T4", gb=16, gb_per_s=320, watts=70, fp32=8.1, fp16=65),
    _card("V100-SXM2", "V100-SXM2-16GB", "V100-SXM2-32GB", gb=16, gb_per_s=900, watts=300, fp32=15.7, fp16=125),
    _card("V100-PCIe", "V100-PCIE-16GB", "V100-PCIE-32GB", gb=16, gb_per_s=900, watts=250, fp32=14, fp16=112),
    _card("A100-SXM 40 GB", "A100-SXM4-40GB",
          gb=42.95, gb_per_s=1555, watts=400, fp32=19.5, tf32=156, fp16=312, bf16=312),
    _card("A100-PCIe", "A100-PCIE-40GB", "A100 80GB PCIe",
          gb=42.95, gb_per_s=1555, watts=250, fp32=19.5, tf32=156, fp16=312, bf16=312),
    _card("A10 24 GB", "A10", gb=24, gb_per_s=600, watts=150, fp32=31.2, tf32=62.5, fp16=125, bf16=125),
    # aws.amazon.com/ec2/instance-types/g5 and NVIDIA's A10G data sheet.
    _card("A10G 24 GB", "A10G", gb=24, gb_per_s=600, watts=300, fp32=35, tf32=35, fp16=70, bf16=70),
    _card("A30 24 GB", "A30", gb=24, gb_per_s=933, watts=165, fp32=10.3, tf32=82, fp16=165, bf16=165),
    _card("A40 48 GB", "A40", gb=48, gb_per_s=696, watts=300, fp32=37.4, tf32=74.8, fp16=149.7, bf16=149.7),
    _card("RTX A6000 48 GB", "RTX A6000",
          gb=48, gb_per_s=768, watts=300, fp32=38.7, tf32=77.4, fp16=154.8, bf16=154.8),
    _card("RTX 3090 24 GB", "GeForce RTX 3090",
          gb=25.77, gb_per_s=936, watts=350, fp32=35.6, tf32=35.6, fp16=71, bf16=71),
    _card("L4 24 GB", "L4", gb=24, gb_per_s=300, watts=72, fp32=30.3, tf32=60, fp16=121, bf16=121, fp8=242),
    _card("L40 48 GB", "L40",
          gb=48, gb_per_s=864, watts=300, fp32=90.5, tf32=90.5, fp16=181, bf16=181, fp8=362),
    _card("H100-NVL 94 GB", "H100 NVL",
          gb=94, gb_per_s=3900, watts=400, fp32=60, tf32=417, fp16=835, bf16=835, fp8=1671),
    _card("H200-NVL 141 GB", "H200 NVL",
          gb=141, gb_per_s=4800, watts=600, fp32=60, tf32=417, fp16=835, bf16=835, fp8=1671),
    _card("GH200 96 GB", "GH200 480GB",
          gb=96, gb_per_s=4000, watts=700, fp32=67, tf32=494, fp16=989, bf16=989, fp8=1979),
    _card("B200 180 GB", "B200",
          gb=180, gb_per_s=7700, watts=1000, fp32=75, tf32=1100, fp16=2250, bf16=2250, fp8=4500),
    # Its fp32 is that of matrix products.
    _card("MI300X 192 GB", "Instinct MI300X",
          gb=192, gb_per_s=5300, watts=750, fp32=163.4, tf32=653.7, fp16=1307.4, bf16=1307.4, fp8=2614.9),
)  # fmt: skip

# Makers' names before a device's name; older drivers omit them.
_MAKERS = ("NVIDIA ", "Tesla ", "AMD ")
_BY_DEVICE_NAME = {name: accelerator for accelerator in ACCELERATORS for name in accelerator.device_names}


def find_accelerator(device_name: str) -> Accelerator | None:
    """Returns the accelerator with torch's name `device_name`, which must match exactly; None if the table lacks it.

    Example:
        >>> find_accelerator("NVIDIA H100 NVL").peak_flops["bf16"]
        835000000000000
        >>> find_accelerator("NVIDIA RTX A1000")
    """
    for maker in _MAKERS:
        device_name = device_name.removeprefix(maker)
    return _BY_DEVICE_NAME.get(device_name)
