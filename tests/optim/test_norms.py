"""Norms that are right at every size."""

import math
from typing import Any

import numpy as np
import oracle
import pytest
import torch

from anybatch.optim.norms import Layers, measure
from anybatch.optim.sharding import layout_of


def layer_norms(tensors: Any, norm: str = "l2", blocks: Any = 1) -> Any:
    return measure([Layers(tensors, [layout_of(t, blocks) for t in tensors], norm)])[0]


@pytest.mark.parametrize("norm", ["l2", "l1", "linf"])
@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("shape", [(3, 5), (3,), (0, 4), (6, 0), (300, 4001), (3, 2, 2)])
def test_norms_are_the_oracles(shape: Any, blocks: Any, norm: str) -> None:
    x = np.random.default_rng(0).normal(size=shape)
    expected = [oracle.size(part, norm) for part in np.split(x, blocks)]
    several = layer_norms([torch.tensor(x), torch.tensor(2 * x)], norm, blocks)
    np.testing.assert_allclose(several.numpy(), expected + [2 * n for n in expected], rtol=1e-13)


def test_scalars_and_strides() -> None:
    x = torch.arange(24.0).view(4, 6)
    several = layer_norms([torch.tensor(-3.0), x.t(), x[:, ::2], x[1]])
    expected = [3.0, x.double().norm().item(), x[:, ::2].double().norm().item(), x[1].double().norm().item()]
    assert several.tolist() == pytest.approx(expected, rel=1e-14)


def test_a_large_fp32_layer_keeps_its_digits() -> None:
    x = torch.full((4_000_000,), 0.1)
    exact = math.sqrt(4_000_000) * float(torch.tensor(0.1))
    assert layer_norms([x]).item() == pytest.approx(exact, rel=1e-7)
    assert layer_norms([x], "l1").item() == pytest.approx(4_000_000 * float(torch.tensor(0.1)), rel=1e-12)


@pytest.mark.slow
def test_an_embedding_of_134_million_keeps_its_digits() -> None:
    x = torch.full((134_000_000,), 0.1)
    assert layer_norms([x]).item() == pytest.approx(math.sqrt(x.numel()) * x[0].item(), rel=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_layers_neither_overflow_nor_vanish(dtype: torch.dtype) -> None:
    x = torch.full((1000,), 3e4, dtype=dtype)
    assert layer_norms([x]).item() == pytest.approx(x[0].item() * math.sqrt(1000), rel=1e-7)
    tiny = torch.full((4,), torch.finfo(dtype).tiny, dtype=dtype)
    assert layer_norms([tiny]).item() == pytest.approx(2 * torch.finfo(dtype).tiny, rel=1e-12)


def test_the_number_of_threads_changes_no_bit() -> None:
    x = torch.randn(500, 1000, generator=torch.Generator().manual_seed(0))
    threads, several = torch.get_num_threads(), []
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            several.append([layer_norms([x], norm, blocks).tolist() for norm in ("l2", "l1") for blocks in (1, 5)])
    finally:
        torch.set_num_threads(threads)
    assert several[0] == several[1] == several[2]
