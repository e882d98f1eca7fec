"""The device of this process, and how torch computes on it during a run."""

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from anybatch.engine.execution import Execution
from anybatch.errors import InputError


def local_device() -> torch.device:
    """Returns the device of this process: the GPU with its number on this machine (LOCAL_RANK), or the CPU.

    Raises:
        InputError: more processes on this machine than GPUs.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        return torch.device("cpu")
    number = int(os.environ.get("LOCAL_RANK", "0"))
    if number < count:
        return torch.device("cuda", number)
    # A launcher such as srun --gpus-per-task=1 shows each process only one GPU; torchrun shows all GPUs to all.
    if count == 1 and "CUDA_VISIBLE_DEVICES" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ:
        return torch.device("cuda", 0)
    asked = int(os.environ.get("LOCAL_WORLD_SIZE", number + 1))
    raise InputError(
        f"{asked} processes on this machine, which has {count} GPU{'s' if count > 1 else ''}: start at most {count} "
        "(--nproc), or one process with a larger engine.micro_batch_size"
    )


def decided(execution: Execution, device: torch.device, model: nn.Module) -> Execution:
    """Returns `execution` with every "auto" decided for the device, except micro-batch sizes, which are measured.

    On a CPU this is fp32 in PyTorch's kernels: a run's bits must not depend on what is installed.
    """
    gpu = device.type == "cuda"
    convolutions = gpu and any(isinstance(module, nn.Conv2d) for module in model.modules())
    repeats = any(isinstance(module, nn.ModuleList) for module in model.modules())
    auto: dict[str, Callable[[], Any]] = {
        "precision": lambda: _fastest_precision(device) if gpu else "fp32",
        "low_precision_weights": lambda: gpu and chosen["precision"] in ("bf16", "fp16"),
        "compile": lambda: gpu and repeats and _compiles(device),
        "channels_last": lambda: convolutions,
        "cudnn_search": lambda: convolutions and not execution.deterministic,
    }
    chosen: dict[str, Any] = {}
    for name, decide in auto.items():
        value = getattr(execution, name)
        chosen[name] = decide() if value == "auto" else value
    return replace(execution, **chosen)


def described(execution: Execution, device: torch.device) -> str:
    """Returns a line about the decisions, for a GPU."""
    parts: list[str] = [execution.precision]
    parts += ["compiled layers"] if execution.compile else []
    parts += ["channels last"] if execution.channels_last else []
    parts += ["cuDNN's search"] if execution.cudnn_search else []
    name = torch.cuda.get_device_name(device)
    return f"{name}: {', '.join(parts)} (engine.precision, compile, channels_last, cudnn_search)"


def _fastest_precision(device: torch.device) -> str:
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16"
    # Volta and Turing have units only for fp16; older GPUs are no faster in it.
    return "fp16" if torch.cuda.get_device_capability(device) >= (7, 0) else "tf32"


def _compiles(device: torch.device) -> bool:
    """Returns whether inductor can compile: it needs Triton, a C compiler, and compute capability 7.0."""
    if importlib.util.find_spec("triton") is None:
        return False
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return compiler is not None and torch.cuda.get_device_capability(device) >= (7, 0)


@contextmanager
def computing_on(device: torch.device, execution: Execution) -> Iterator[None]:
    """A block in which CUDA computes as `execution` sets; afterwards as before. A CPU is not affected.

    An operation without a deterministic algorithm raises torch's RuntimeError if `execution.deterministic`.
    """
    if device.type != "cuda":
        yield
        return
    cudnn, matmul, cuda = torch.backends.cudnn, torch.backends.cuda.matmul, torch.backends.cuda
    before = cudnn.benchmark, matmul.allow_tf32, cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    cudnn.benchmark = bool(execution.cudnn_search)
    # Under autocast, little stays in fp32. Convolutions use TF32 units by torch's default.
    matmul.allow_tf32 = execution.precision != "fp32"
    cuda.enable_cudnn_sdp(execution.cudnn_attention and not execution.deterministic)
    try:
        with _repeatable(execution.deterministic):
            yield
    finally:
        cudnn.benchmark, matmul.allow_tf32 = before[:2]
        cuda.enable_cudnn_sdp(before[2])


@contextmanager
def _repeatable(deterministic: bool) -> Iterator[None]:
    if not deterministic:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    # cuBLAS reads it when its first handle is made.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]  # type: ignore[attr-defined]
