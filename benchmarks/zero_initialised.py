"""A low-rank update of a frozen layer, W + B A with B = 0 at the start, as in LoRA: what its learning rate should do.

    python benchmarks/zero_initialised.py

A step of LAMB is relative to the layer's norm, but the first of a zero layer is a plain Adam step, which decides how
large the layer can become: warm-up makes just that one small. Writes benchmarks/results/zero-initialised.json.
"""

import math
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from anybatch import LAMB, schedule
from anybatch.environment import describe_environment
from anybatch.files import write_json

RESULTS = Path(__file__).parent / "results" / "zero-initialised.json"
SIZE, RANK, BATCH, STEPS, RATE = 32, 4, 256, 100, 0.03
WAYS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "adapt=False for B": {"adapt": False},
    "phi=(1, inf) for B": {"phi": (1.0, math.inf)},
}


def final_loss(way: dict[str, Any], warmup_steps: int, seed: int) -> float:
    """Mean square of what is missing on fresh examples; 0.3 before training."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random)

    wanted = normal(SIZE, RANK) @ normal(RANK, SIZE) / (2 * math.sqrt(SIZE * RANK))
    down, up = torch.nn.Parameter(normal(RANK, SIZE) / math.sqrt(SIZE)), torch.nn.Parameter(torch.zeros(SIZE, RANK))

    def loss(examples: int) -> torch.Tensor:
        return (normal(examples, SIZE) @ (up @ down - wanted).T).square().mean()

    optimizer = LAMB([{"params": [down]}, {"params": [up], **way}], lr=RATE, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule(STEPS, warmup_steps))
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(BATCH).backward()
        optimizer.step()
        scheduler.step()
    return loss(4096).item()


def main() -> None:
    """Prints the table: ways by steps of warm-up, means of three seeds."""
    torch.set_num_threads(1)
    warmups = (0, 5, 10, 50)
    print(f"{f'loss after {STEPS} steps at {RATE}; warm-up:':40}", *(f"{steps:>8}" for steps in warmups))
    rows = []
    for name, way in WAYS.items():
        losses = {steps: [final_loss(way, steps, seed) for seed in range(3)] for steps in warmups}
        rows.append({"way": name, "losses_by_warmup_steps": losses})
        print(f"{name:40}", *(f"{mean(each):8.3f}" for each in losses.values()))
    write_json(RESULTS, {"environment": describe_environment(), "rate": RATE, "steps": STEPS, "rows": rows})


if __name__ == "__main__":
    main()
