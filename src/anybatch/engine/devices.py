"""The device of this process, and how torch computes on it during a run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from anybatch.errors import InputError


def local_device() -> torch.device:
    """The device that this process computes on: the GPU of its number on this machine (LOCAL_RANK), or the CPU.

    Raises:
        InputError: more processes on this machine than GPUs.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        return torch.device("cpu")
    number = int(os.environ.get("LOCAL_RANK", "0"))
    if number < count:
        return torch.device("cuda", number)
    # A launcher such as srun --gpus-per-task=1 shows each process a GPU of its own. torchrun shows all to all.
    if count == 1 and "CUDA_VISIBLE_DEVICES" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ:
        return torch.device("cuda", 0)
    asked = int(os.environ.get("LOCAL_WORLD_SIZE", number + 1))
    raise InputError(
        f"{asked} processes on this machine, which has {count} GPU{'s' if count > 1 else ''}: start at most {count} "
        "(--nproc), or one process with a larger engine.micro_batch_size"
    )


@contextmanager
def repeatable(deterministic: bool, device: torch.device) -> Iterator[None]:
    """A block in which CUDA computes the same bits for the same numbers, if `deterministic`.

    On a CPU nothing has to be changed for it. What has no such algorithm raises torch's RuntimeError.
    """
    if not deterministic or device.type != "cuda":
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
