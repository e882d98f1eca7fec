"""LAMB over FSDP2: parameters, gradients and states are shards; norms are those of whole layers.

torchrun --standalone --nproc-per-node 2 examples/fsdp2.py
"""

import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy

from anybatch import LAMB, Reference, param_groups

kind = "cuda" if torch.cuda.is_available() else "cpu"
dist.init_process_group()
rank, size = dist.get_rank(), dist.get_world_size()
if kind == "cuda":
    torch.cuda.set_device(rank % torch.cuda.device_count())
torch.set_default_device(kind)
torch.manual_seed(0)  # the same weights and examples on every rank
teacher = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 10))
model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.LayerNorm(64), nn.Linear(64, 10))

mesh = init_device_mesh(kind, (size,))
for layer in model:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)

# After fully_shard, so that the optimizer sees the shards.
run = Reference(batch_size=32, lr=0.01, warmup_ratio=1 / 80, num_examples=51_200).at(256)
optimizer = LAMB(param_groups(model), lr=run.lr)
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, run.schedule)

for step in range(run.num_steps):
    x = torch.randn(run.batch_size, 32)
    mine = x.chunk(size)[rank]
    loss = cross_entropy(model(mine), teacher(mine).argmax(dim=1))
    loss.backward()
    optimizer.step()
    scheduler.step()
    optimizer.zero_grad()
    if step in (0, run.num_steps - 1):
        dist.all_reduce(loss.detach_())
        if rank == 0:
            print(f"step {step + 1} of {run.num_steps}: loss {loss.item() / size:.3f}")
ratios = optimizer.trust_ratios()  # on every rank: the norms of shards are added up in the step
if rank == 0:
    print("trust ratios:", ", ".join(f"{name} {layer.ratio:.3f}" for name, layer in ratios.items()))
dist.destroy_process_group()
if kind == "cpu":
    # torch's caches keep the mesh, and so gloo's threads; these can abort an interpreter during its shutdown.
    sys.stdout.flush()
    os._exit(0)
