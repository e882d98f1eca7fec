"""LAMB in ZeroRedundancyOptimizer under DDP: every rank keeps the states of its share of the parameters.

torchrun --standalone --nproc-per-node 2 examples/zero_redundancy.py
"""

import functools
import gc

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from anybatch import LAMB, Reference, param_groups


def main():
    rank, size = dist.get_rank(), dist.get_world_size()
    if torch.cuda.is_available():
        torch.cuda.set_device(rank % torch.cuda.device_count())
        torch.set_default_device("cuda")
    torch.manual_seed(0)  # the same weights and examples on every rank
    teacher = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 10))
    model = DistributedDataParallel(nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.LayerNorm(64), nn.Linear(64, 10)))

    run = Reference(batch_size=32, lr=0.01, warmup_ratio=1 / 80, num_examples=51_200).at(256)
    # ZeroRedundancyOptimizer takes tensors without names. LAMB's `process_group` makes the ranks, each of which sees
    # the gradients of its share, clip by the norm over all. ZeroRedundancyOptimizer has an argument of this name, too,
    # hence the partial.
    groups = [{**group, "params": [p for _, p in group["params"]]} for group in param_groups(model)]
    sharded_lamb = functools.partial(LAMB, max_grad_norm=1.0, process_group=dist.group.WORLD)
    optimizer = ZeroRedundancyOptimizer(groups, sharded_lamb, lr=run.lr)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, run.schedule)

    for step in range(run.num_steps):
        mine = torch.randn(run.batch_size, 32).chunk(size)[rank]
        loss = cross_entropy(model(mine), teacher(mine).argmax(dim=1))
        loss.backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if step in (0, run.num_steps - 1):
            dist.all_reduce(loss.detach_())
            if rank == 0:
                print(f"step {step + 1} of {run.num_steps}: loss {loss.item() / size:.3f}")


dist.init_process_group()
main()
# An object that holds the group keeps the group's threads, and a thread that outlives the interpreter can abort the
# process.
gc.collect()
dist.destroy_process_group()
