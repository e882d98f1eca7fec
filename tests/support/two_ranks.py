"""One of two ranks that own different parameters; run by test_process_group.py as: two_ranks.py RANK FOLDER."""

import functools
import math
import os
import sys

import torch
import torch.distributed as dist

from anybatch.optim import LAMB

STEPS = 4


def layers():
    random = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(3, 2, generator=random, dtype=torch.float64)) for _ in range(4)]


def gradients(step):
    """Step 2 has a NaN in the last layer, which rank 1 owns; step 3 has nothing for rank 0."""
    random = torch.Generator().manual_seed(step)
    several = [torch.randn(3, 2, generator=random, dtype=torch.float64) for _ in range(4)]
    if step == 2:
        several[3][0, 0] = math.nan
    return [None, None, *several[2:]] if step == 3 else several


def train(optimizer, params, mine):
    for step in range(STEPS):
        for p, g in zip(params, gradients(step)[mine], strict=True):
            p.grad = g
        optimizer.step()
    return optimizer


SETTINGS = {"lr": 0.1, "max_grad_norm": 0.5, "nonfinite": "skip"}


def main(rank, folder):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    mine = slice(2 * rank, 2 * rank + 2)
    params = layers()[mine]
    optimizer = train(LAMB(params, process_group=dist.group.WORLD, **SETTINGS), params, mine)
    torch.save([optimizer.skipped_steps, optimizer.nonfinite_layers, params], f"{folder}/own-{rank}.pt")

    params = layers()
    constructor = functools.partial(LAMB, process_group=dist.group.WORLD)
    train(ZeroRedundancyOptimizer(params, constructor, **SETTINGS), params, slice(None))
    torch.save(params, f"{folder}/zero-{rank}.pt")

    params = layers()[mine]
    optimizer = LAMB(params, lr=0.1, nonfinite="raise", process_group=dist.group.WORLD)
    for p, g in zip(params, gradients(2)[mine], strict=True):
        p.grad = g
    try:
        optimizer.step()
    except RuntimeError as error:
        torch.save(str(error), f"{folder}/error-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
    os._exit(0)  # gloo's threads may outlive the group, and abort an interpreter that is being taken down
