"""LAMB under Accelerate, on any number of processes.

python examples/with_accelerate.py
torchrun --standalone --nproc-per-node 2 examples/with_accelerate.py      (or accelerate launch)
"""

import os
import sys

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from anybatch import LAMB, Reference, param_groups

BATCH, MICRO_BATCH = 256, 64
set_seed(0)
teacher = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 10))
model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))
x = torch.randn(8192, 32)
data = TensorDataset(x, teacher(x).argmax(dim=1))

accelerator = Accelerator(cpu=not torch.cuda.is_available())
micro_batches = BATCH // (MICRO_BATCH * accelerator.num_processes)
accelerator.gradient_accumulation_steps = micro_batches

run = Reference(batch_size=32, lr=0.01, warmup_ratio=1 / 80, num_examples=32_768).at(BATCH)
optimizer = LAMB(param_groups(model), lr=run.lr)
# Not prepared: a prepared scheduler steps once for every process, and run.schedule already counts global batches.
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, run.schedule)
loader = DataLoader(data, batch_size=MICRO_BATCH, shuffle=True)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

first = None
for _ in range(run.num_examples // len(data)):
    for inputs, labels in loader:
        with accelerator.accumulate(model):
            loss = cross_entropy(model(inputs), labels)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            scheduler.step()
        first = loss.item() if first is None else first
accelerator.print(f"{scheduler.last_epoch} steps of {BATCH}: loss {first:.3f} to {loss.item():.3f}")
accelerator.end_training()
if accelerator.num_processes > 1 and accelerator.device.type == "cpu":
    # What was prepared keeps gloo's threads, which can abort an interpreter that is being taken down.
    sys.stdout.flush()
    os._exit(0)
