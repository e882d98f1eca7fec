"""Ranks that own different parameters take the step that one process would."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from anybatch.optim import LAMB

SCRIPT = Path(__file__).parents[1] / "support" / "two_ranks.py"


@pytest.mark.timeout(120)
def test_clipping_and_skipping_are_agreed(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("two_ranks", SCRIPT)
    control = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(control)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ranks = [subprocess.Popen([sys.executable, SCRIPT, str(rank), tmp_path], env=environment) for rank in (0, 1)]
    try:
        params = control.layers()
        optimizer = control.train(LAMB(params, **control.SETTINGS), params, slice(None))
        assert [rank.wait(100) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()

    def load(name: str) -> Any:
        return torch.load(tmp_path / name, weights_only=False)

    (skipped, _, first), (_, named, second) = load("own-0.pt"), load("own-1.pt")
    assert skipped == optimizer.skipped_steps == 1
    assert optimizer.nonfinite_layers == named == []
    torch.testing.assert_close(first + second, params, rtol=1e-14, atol=0)
    for rank in (0, 1):
        torch.testing.assert_close(load(f"zero-{rank}.pt"), params, rtol=1e-14, atol=0)
    assert "parameters of another rank" in load("error-0.pt")
    assert "non-finite gradient in 0.1;" in load("error-1.pt")


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
