"""From AdamW at batch 256 to LAMB at 8,192 in three lines, and how to find the learning rate.

    python examples/adamw_to_lamb.py

AdamW's learning rate says nothing about LAMB's. AdamW moves a weight by about its learning rate; LAMB moves a layer by
this share of the layer's norm. So tune LAMB's learning rate once, at a batch that is cheap to try (five short runs
here). The square-root rule carries it to the batch that the hardware wants: times sqrt(8192 / 256) = 5.7. Nothing is
tuned at 8,192. Whether so large a batch is worth it is another question: `anybatch.GradientNoiseScale` measures it.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from anybatch import LAMB, Reference, param_groups

EXAMPLES = 524_288  # 2,048 steps of 256, 64 steps of 8,192
torch.manual_seed(0)
teacher = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 10))
held_out = torch.randn(8192, 32)


def train(batch_size, make):
    """Returns the held-out loss after all examples; `make` builds optimizer and scheduler for a new model."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer, scheduler = make(model)
    for _ in range(EXAMPLES // batch_size):
        x = torch.randn(batch_size, 32)
        optimizer.zero_grad()
        cross_entropy(model(x), teacher(x).argmax(dim=1)).backward()
        optimizer.step()
        scheduler.step()
    with torch.no_grad():
        return cross_entropy(model(held_out), teacher(held_out).argmax(dim=1)).item()


def with_lamb(lr, batch_size):
    def make(model):  # the three lines
        run = Reference(256, lr=lr, warmup_ratio=1 / 64, num_examples=EXAMPLES).at(batch_size)
        optimizer = LAMB(param_groups(model), lr=run.lr)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, run.schedule)

    return make


def with_adamw(model):  # what was there before
    run = Reference(256, lr=3e-3, warmup_ratio=1 / 64, num_examples=EXAMPLES).at(256)
    optimizer = torch.optim.AdamW(model.parameters(), lr=run.lr)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, run.schedule)


print(f"AdamW, batch 256:  held-out loss {train(256, with_adamw):.3f}")
losses = {lr: train(256, with_lamb(lr, 256)) for lr in (0.005, 0.01, 0.02, 0.04, 0.08)}
best = min(losses, key=losses.get)
print("LAMB, batch 256:  ", ", ".join(f"{loss:.3f} at {lr}" for lr, loss in losses.items()))
print(
    f"LAMB, batch 8192:  held-out loss {train(8192, with_lamb(best, 8192)):.3f}, untuned, in 64 steps instead of 2,048"
)
