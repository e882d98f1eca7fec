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
from anybatch.integrations.accelerate import scaled, scheduler, watch

BATCH, MICRO_BATCH = 256, 64
set_seed(0)
teacher = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 10))
model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))
x = torch.randn(8192, 32)
loader = DataLoader(TensorDataset(x, teacher(x).argmax(dim=1)), batch_size=MICRO_BATCH, shuffle=True)

accelerator = Accelerator(cpu=not torch.cuda.is_available())
tuned = Reference(batch_size=32, lr=0.01, warmup_ratio=1 / 80, num_examples=32_768)
run = scaled(accelerator, tuned, BATCH, MICRO_BATCH)  # gradient accumulation follows
optimizer = LAMB(param_groups(model), **run.optimizer)
schedule = scheduler(accelerator, optimizer, run)
model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
seen = watch(accelerator, model, optimizer, schedule)

losses = []
for _ in range(run.num_examples // len(x)):
    for inputs, labels in loader:
        with accelerator.accumulate(model):
            loss = cross_entropy(model(inputs), labels)
            accelerator.backward(loss)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        losses.append(loss.item())
numbers = seen.numbers()  # accelerator.log(numbers, step=...) sends them to any tracker
accelerator.print(f"{seen.num_steps} steps of {BATCH}: loss {losses[0]:.3f} to {losses[-1]:.3f}")
accelerator.print(f"median trust ratio {numbers['trust_ratio/p50']:.3f}, noise scale {numbers['noise/scale']:.0f}")
accelerator.end_training()
if accelerator.num_processes > 1 and accelerator.device.type == "cpu":
    # Prepared objects keep gloo's threads, which can abort an interpreter during its shutdown.
    sys.stdout.flush()
    os._exit(0)
