"""LAMB in a plain PyTorch loop, at a batch that was not tuned.

python examples/plain_loop.py
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from anybatch import LAMB, Reference, param_groups

torch.manual_seed(0)
teacher = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 10))
model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.LayerNorm(64), nn.Linear(64, 10))

# The settings tuned at 32 examples a step, and what the rules make of them at 256.
tuned = Reference(batch_size=32, lr=0.01, warmup_ratio=1 / 80, num_examples=51_200)
run = tuned.at(batch_size=256)
optimizer = LAMB(param_groups(model), lr=run.lr)
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, run.schedule)

for step in range(run.num_steps):
    x = torch.randn(run.batch_size, 32)
    loss = cross_entropy(model(x), teacher(x).argmax(dim=1))
    loss.backward()
    optimizer.step()
    scheduler.step()
    if step == 0 or step == run.num_steps - 1:
        print(f"step {step + 1} of {run.num_steps}: loss {loss.item():.3f}")
    if step == run.num_steps - 1:
        for name, layer in optimizer.trust_ratios().items():
            print(f"  {name}: |x| {layer.weight_norm:.2f}, trust ratio {layer.ratio:.3f}")
    optimizer.zero_grad()
