"""Which device a process computes on, and how: without a GPU, torch's answers about GPUs are put in its mouth."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.linear_job import parameters, regression_job
from torch import nn

from anybatch.engine import Execution, train
from anybatch.engine.devices import computing_on, decided, described, local_device
from anybatch.engine.loss_scale import LossScale
from anybatch.engine.ranks import join_ranks
from anybatch.errors import Elsewhere, InputError
from anybatch.files import read_object
from anybatch.process import SUPERVISOR
from anybatch.runs import Run


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
    with open(tmp_path / "told", "wb", buffering=0) as file:
        gpus.setenv(SUPERVISOR, f"{os.getppid()}:{file.fileno()}")
        with pytest.raises(Elsewhere), join_ranks():
            pass
    told = read_object(tmp_path / "told")
    assert (told["code"], told["is_cause"]) == (2, True)
    assert told["message"].startswith("3 processes on this machine")


EXECUTION = Execution(micro_batch_size=1, num_evals=1, num_trust_ratios=1, checkpoint_every_steps=1)
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 8, 3)])


def test_only_a_gpu_is_made_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    deterministic = replace(EXECUTION, deterministic=True)
    with computing_on(CPU, deterministic):
        assert not torch.are_deterministic_algorithms_enabled()
    with computing_on(CUDA, EXECUTION):
        assert not torch.are_deterministic_algorithms_enabled()
    with computing_on(CUDA, deterministic):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_a_cpu_computes_in_fp32_as_ever() -> None:
    found = decided(EXECUTION, CPU, Layers())
    assert (found.precision, found.compile, found.channels_last, found.cudnn_search) == ("fp32", False, False, False)


@pytest.mark.parametrize(
    ("bf16", "capability", "precision"), [(True, (9, 0), "bf16"), (False, (7, 5), "fp16"), (False, (6, 1), "tf32")]
)
def test_a_gpu_computes_in_what_it_has_units_for(
    gpus: pytest.MonkeyPatch, bf16: bool, capability: tuple[int, int], precision: str
) -> None:
    gpus.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    gpus.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    gpus.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA X")
    gpus.setattr("importlib.util.find_spec", lambda name: name)
    gpus.setenv("CC", "gcc")
    found = decided(EXECUTION, CUDA, Layers())
    assert (found.precision, found.channels_last, found.cudnn_search) == (precision, True, True)
    assert found.compile is (capability >= (7, 0))
    assert found.low_precision_weights is (precision != "tf32")
    assert described(found, CUDA).startswith(f"NVIDIA X: {precision}, ")
    assert not decided(replace(EXECUTION, deterministic=True), CUDA, Layers()).cudnn_search
    chosen = replace(
        EXECUTION,
        precision="bf16",
        low_precision_weights=False,
        compile=False,
        channels_last=False,
        cudnn_search=False,
    )
    assert decided(chosen, CUDA, Layers()) == chosen, "what was chosen stays"


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", False), ("tf32", True), ("bf16", True)])
def test_tf32_is_used_where_it_is_asked_for(precision: str, allowed: bool) -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    with computing_on(CUDA, replace(EXECUTION, precision=precision)):
        assert torch.backends.cuda.matmul.allow_tf32 is allowed
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.backends.cuda.matmul.allow_tf32 is before
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_a_loss_scale_is_halved_by_what_is_not_finite_and_doubled_later() -> None:
    scale = LossScale()
    scale.update(skipped=True)
    assert scale.value == 2.0**15
    for _ in range(2_000):
        scale.update(skipped=False)
    assert scale.value == 2.0**16


def test_fp16_learns_what_fp32_does(tmp_path: Path) -> None:
    """Autocast leaves a float64 model as it is: what is left of fp16 is the scale, which must leave no trace."""
    found = []
    for precision in ("fp32", "fp16"):
        job = regression_job(execution={"precision": precision})
        run = Run(tmp_path / precision)
        run.path.mkdir()
        train(job, run)
        found.append(parameters(job))
    assert torch.equal(*found)
