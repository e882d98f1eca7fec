"""Which device a process computes on, and how: without a GPU, torch's answers about GPUs are put in its mouth."""

import os

import pytest
import torch

from anybatch.engine.devices import local_device, repeatable
from anybatch.engine.ranks import join_ranks
from anybatch.errors import Elsewhere, InputError
from anybatch.files import read_object


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with two GPUs."""
    for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "CUDA_VISIBLE_DEVICES", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    return monkeypatch


def test_each_process_has_the_gpu_of_its_number(gpus: pytest.MonkeyPatch) -> None:
    assert local_device() == torch.device("cuda", 0)
    gpus.setenv("LOCAL_RANK", "1")
    assert local_device() == torch.device("cuda", 1)


def test_a_process_that_is_shown_one_gpu_takes_it(gpus: pytest.MonkeyPatch) -> None:
    gpus.setattr(torch.cuda, "device_count", lambda: 1)
    gpus.setenv("LOCAL_RANK", "3")
    gpus.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert local_device() == torch.device("cuda", 0)


def test_more_processes_than_gpus_are_refused_in_one_line(gpus: pytest.MonkeyPatch) -> None:
    gpus.setenv("LOCAL_RANK", "2")
    gpus.setenv("LOCAL_WORLD_SIZE", "8")
    expected = "8 processes on this machine, which has 2 GPUs: start at most 2"
    with pytest.raises(InputError, match=expected):
        local_device()
    with pytest.raises(InputError, match=expected), join_ranks():
        pass


def test_the_supervisor_is_told_of_too_many_processes(gpus: pytest.MonkeyPatch, tmp_path) -> None:
    gpus.setenv("LOCAL_RANK", "2")
    gpus.setenv("RANK", "2")
    gpus.setenv("ANYBATCH_OUTCOMES", str(tmp_path))
    with pytest.raises(Elsewhere), join_ranks():
        pass
    told = read_object(tmp_path / "rank-2.json")
    assert (told["code"], told["is_cause"]) == (2, True)
    assert told["message"].startswith("3 processes on this machine")


def test_only_a_gpu_is_made_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with repeatable(True, torch.device("cpu")):
        assert not torch.are_deterministic_algorithms_enabled()
    with repeatable(False, torch.device("cuda")):
        assert not torch.are_deterministic_algorithms_enabled()
    with repeatable(True, torch.device("cuda")):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
