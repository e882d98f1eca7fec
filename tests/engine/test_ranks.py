"""How the errors of torch, gloo and NCCL are told, by their real texts."""

import os

import pytest
import torch.distributed as dist

from anybatch.engine.ranks import Ranks, _leave_endings_to_the_watch, is_lost

_HEAD = "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:77, {}, NCCL version 2.27.5\n"
DUPLICATE = (
    _HEAD.format("invalid usage (run with NCCL_DEBUG=WARN for details)")
    + "ncclInvalidUsage: This usually reflects invalid usage of NCCL library.\nLast error:\n"
    "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1000"
)
FULL = (
    _HEAD.format("unhandled cuda error (run with NCCL_DEBUG=INFO for details)")
    + "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'"
)
INTERNAL = _HEAD.format("internal error") + "ncclInternalError: Internal check failed."
REMOTE = (
    _HEAD.format("remote process exited or there was a network error")
    + "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely."
)
SYSTEM = (
    _HEAD.format("unhandled system error")
    + "ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error."
)
ABORTED = "NCCL communicator was aborted on rank 0."
GLOO = "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234"


@pytest.fixture(autouse=True)
def several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "is_initialized", lambda: True)


@pytest.mark.parametrize("text", [REMOTE, SYSTEM, ABORTED, GLOO])
def test_a_lost_connection_is_a_lost_rank(text: str) -> None:
    assert is_lost(RuntimeError(text))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (DUPLICATE, "two processes compute on one GPU, which NCCL refuses"),
        (FULL, "out of memory; choose a smaller engine.micro_batch_size"),
        (INTERNAL, "RuntimeError: NCCL error in:"),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "out of memory; choose"),
        ("CUDA error: out of memory", "out of memory; choose"),
    ],
)
def test_a_ranks_own_fault_is_told_as_what_it_is(text: str, told: str) -> None:
    error = RuntimeError(text)
    assert not is_lost(error)
    assert Ranks().failed(error).message.startswith(told)


def test_nccls_watchdogs_wait_for_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", raising=False)
    monkeypatch.setenv("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC", "5000")
    _leave_endings_to_the_watch(600.0)
    assert os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "0"
    assert os.environ["TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC"] == "5000", "what the user set stays"
    monkeypatch.delenv("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC")
    _leave_endings_to_the_watch(600.0)
    assert int(os.environ["TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC"]) > 600
    monkeypatch.delenv("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC")
