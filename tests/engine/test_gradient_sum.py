"""Gradients summed in buckets are not copied back, and nobody waits for flags that all are set."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from anybatch.engine.gradient_sum import GradientSum
from anybatch.engine.ranks import join_ranks


def test_a_gradient_is_a_view_of_its_bucket(tmp_path: Path) -> None:
    """One rank of one: the sum is its own gradient."""
    with join_ranks(url=f"file://{tmp_path}/rendezvous?rank=0&world_size=1") as ranks:
        params = [
            nn.Parameter(torch.ones(3)),
            nn.Parameter(torch.ones(2, 3, 2, 2).to(memory_format=torch.channels_last)),
        ]
        unused = nn.Parameter(torch.ones(2))
        summed = GradientSum([*params, unused], ranks)
        for step in range(2):
            summed.begin()
            sum((step + 2) * p.square().sum() for p in params).backward()
            summed.finish()
            for p in params:
                assert p.grad is not None
                assert torch.equal(p.grad, 2.0 * (step + 2) * torch.ones_like(p))
                assert p.grad.stride() == p.stride()
                assert p.grad.untyped_storage().data_ptr() == summed._buckets[0].flat.untyped_storage().data_ptr()
                p.grad = None
            assert unused.grad is None
    dist.destroy_process_group()
