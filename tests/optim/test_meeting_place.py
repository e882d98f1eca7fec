"""Where a rank without parameters looks at the gradients together with the others."""

import pytest
import torch
import torch.distributed as dist

from anybatch.optim import LAMB


@pytest.mark.parametrize(
    ("backends", "gpus", "place"),
    [
        ("cpu:gloo,cuda:nccl", True, torch.device("cuda", 1)),
        ("cuda:nccl", True, torch.device("cuda", 1)),
        ("cpu:gloo,cuda:gloo", True, torch.device("cpu")),
        ("cpu:gloo,cuda:nccl", False, torch.device("cpu")),
    ],
)
def test_a_rank_without_parameters_meets_the_others_on_the_gpu(
    monkeypatch: pytest.MonkeyPatch, backends: str, gpus: bool, place: torch.device
) -> None:
    """A group that was made without naming a backend calls itself "undefined"."""
    monkeypatch.setattr(dist, "get_backend", lambda group: "undefined")
    monkeypatch.setattr(dist, "get_backend_config", lambda group: backends)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    optimizer = LAMB([{"params": []}], process_group=object())
    assert optimizer._meeting_place() == place
