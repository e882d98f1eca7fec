"""The forward pass, the backward pass and the LAMB step compiled; the optimizer's step is one graph.

python examples/compiled_step.py
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from anybatch import LAMB, Reference, param_groups

torch.manual_seed(0)
teacher = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 10))
model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.LayerNorm(64), nn.Linear(64, 10))
run = Reference(batch_size=32, lr=0.01, warmup_ratio=1 / 80, num_examples=51_200).at(256)

# The learning rate is a tensor, which the loop fills: a float that changes would be compiled again. There is no
# scheduler, since it wraps `optimizer.step` in a function, and the graph would break in it.
optimizer = LAMB(param_groups(model), lr=torch.tensor(run.lr), foreach=True)
optimizer_step = torch.compile(optimizer.step, fullgraph=True)


@torch.compile
def loss_of(x, labels):
    return cross_entropy(model(x), labels)


for step in range(run.num_steps):
    x = torch.randn(run.batch_size, 32)
    loss = loss_of(x, teacher(x).argmax(dim=1))
    loss.backward()
    for group in optimizer.param_groups:
        group["lr"].fill_(run.lr * run.schedule(step))
    optimizer_step()
    optimizer.zero_grad()
    if step in (0, run.num_steps - 1):
        print(f"step {step + 1} of {run.num_steps}: loss {loss.item():.3f}")
