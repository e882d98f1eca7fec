"""Threads, forks and other optimizers beside a fused step."""

import os
import threading
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anybatch.optim import LAMB


def stepped(seed: int, steps: Any = 20, sizes: Any = (300_000, 1000, 200_000)) -> Any:
    generator = torch.Generator().manual_seed(seed)
    params = [nn.Parameter(torch.randn(n, generator=generator)) for n in sizes]
    gradients = [torch.randn(n, generator=generator) for n in sizes]
    optimizer = LAMB(params, lr=0.01, fused=True)
    for _ in range(steps):
        for p, g in zip(params, gradients, strict=True):
            p.grad = g
        optimizer.step()
    return params


def test_two_optimizers_in_two_threads() -> None:
    expected = [stepped(seed) for seed in range(2)]
    found = {}
    threads = [threading.Thread(target=lambda seed=seed: found.update({seed: stepped(seed)})) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(2):
        assert all(torch.equal(p, x) for p, x in zip(found[seed], expected[seed], strict=True))


def test_a_child_forked_after_use_steps_too(tmp_path: Path) -> None:
    expected = stepped(0)
    child = os.fork()
    if child == 0:
        # torch's own OpenMP threads do not survive a fork: the child makes its tensors on one thread.
        torch.set_num_threads(1)
        try:
            first = all(torch.equal(p, x) for p, x in zip(stepped(0), expected, strict=True))
            torch.save(first, tmp_path / "same")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert torch.load(tmp_path / "same") is True
