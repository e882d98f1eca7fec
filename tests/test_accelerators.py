"""The table of accelerators: names match to the letter, peaks fit each other."""

import pytest

from anybatch.accelerators import ACCELERATORS, find_accelerator


@pytest.mark.parametrize(
    ("device_name", "name", "bf16"),
    [
        ("NVIDIA H100 80GB HBM3", "H100-SXM 80 GB", 989e12),
        ("NVIDIA H100 NVL", "H100-NVL 94 GB", 835e12),
        ("NVIDIA H100 PCIe", "H100-PCIe 80 GB", 756e12),
        ("NVIDIA H200", "H200-SXM 141 GB", 989e12),
        ("NVIDIA B200", "B200 180 GB", 2250e12),
        ("NVIDIA A100-SXM4-40GB", "A100-SXM 40 GB", 312e12),
        ("A100-SXM4-80GB", "A100-SXM 80 GB", 312e12),
        ("NVIDIA A10", "A10 24 GB", 125e12),
        ("NVIDIA A10G", "A10G 24 GB", 70e12),
        ("NVIDIA L4", "L4 24 GB", 121e12),
        ("NVIDIA L40", "L40 48 GB", 181e12),
        ("NVIDIA L40S", "L40S 48 GB", 362e12),
    ],
)
def test_a_device_is_found_by_its_whole_name(device_name: str, name: str, bf16: float) -> None:
    found = find_accelerator(device_name)
    assert found is not None
    assert (found.name, found.peak_flops["bf16"]) == (name, bf16)


@pytest.mark.parametrize("device_name", ["NVIDIA RTX A1000", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA H1000", ""])
def test_what_only_resembles_a_name_is_not_found(device_name: str) -> None:
    assert find_accelerator(device_name) is None


def test_cards_without_bf16_units_have_no_peak_for_it() -> None:
    for device_name in ("Tesla V100-SXM2-16GB", "Tesla T4"):
        found = find_accelerator(device_name)
        assert found is not None
        assert {"fp32", "fp16"} == found.peak_flops.keys()


def test_peaks_fit_each_other() -> None:
    names = [name for accelerator in ACCELERATORS for name in accelerator.device_names]
    assert len(names) == len(set(names))
    for accelerator in ACCELERATORS:
        peaks = accelerator.peak_flops
        order = [peaks[key] for key in ("fp32", "tf32", "fp16", "bf16", "fp8") if key in peaks]
        assert order == sorted(order), accelerator.name
        # Tensor cores take a value of half the size twice as fast, up to rounding in the data sheets.
        if "tf32" in peaks and accelerator.name != "L40S 48 GB":
            assert peaks["bf16"] / peaks["tf32"] == pytest.approx(2, rel=0.03), accelerator.name
