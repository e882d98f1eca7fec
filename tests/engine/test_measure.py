"""Which peak a step's FLOPs are held against."""

import pytest
import torch
from torch import nn

from anybatch.engine import measure

CUDA = torch.device("cuda")
MATRIX, CONVOLUTION = nn.Linear(2, 2), nn.Conv2d(1, 1, 1)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> str:
    name = "NVIDIA H100 80GB HBM3"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    return name


@pytest.mark.usefixtures("card")
def test_the_peak_is_that_of_the_arithmetic_that_runs() -> None:
    assert measure.peak_flops(CUDA, "bf16", MATRIX) == 989e12
    assert measure.peak_flops(CUDA, "fp32", MATRIX) == 67e12
    assert measure.peak_flops(CUDA, "fp32", CONVOLUTION) == 494e12, "torch lets convolutions use TF32"
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        assert measure.peak_flops(CUDA, "fp32", MATRIX) == 494e12
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_card_that_only_resembles_one_has_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA RTX A1000")
    assert measure.peak_flops(CUDA, "bf16", MATRIX) is None
    assert measure.peak_flops(torch.device("cpu"), "fp32", MATRIX) is None
