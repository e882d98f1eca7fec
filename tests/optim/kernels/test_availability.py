"""Whether Triton can start a kernel here is known before the first one."""

import pytest
import torch

pytest.importorskip("triton")

from anybatch.optim.kernels import triton


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A GPU of the newest kind, a compiler, and no interpreter."""
    monkeypatch.setattr(triton, "InterpretedFunction", ())
    monkeypatch.setattr(triton.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA B")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    return monkeypatch


def test_all_is_there(gpu: pytest.MonkeyPatch) -> None:
    assert triton.unavailable() is None


def test_without_a_compiler_it_says_so(gpu: pytest.MonkeyPatch) -> None:
    gpu.setattr(triton.shutil, "which", lambda name: None)
    assert "no C compiler" in (triton.unavailable() or "")
    gpu.setenv("CC", "/opt/bin/cc")
    assert triton.unavailable() is None


def test_an_older_gpu_is_named(gpu: pytest.MonkeyPatch) -> None:
    gpu.setattr(torch.cuda, "get_device_capability", lambda: (7, 0))
    assert triton.unavailable() == "Triton needs compute capability 7.5, NVIDIA B has 7.0"
