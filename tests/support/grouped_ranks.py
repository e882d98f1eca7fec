"""A model with BatchNorm, cut over ranks; run as: grouped_ranks.py FOLDER. FOLDER/NAME.pt is its final state."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anybatch.data.batch import Batch
from anybatch.engine import Execution, Job, Phase, Ranks, join_ranks, train
from anybatch.optim import LAMB
from anybatch.runs import Run
from support.forked import on_ranks
from support.linear_job import EXECUTION

# name: (ranks, global batch, group, engine settings); five groups of 4 and 5 examples, or one.
CUTS: dict[str, tuple[int, int, int, dict[str, Any]]] = {
    "one-rank": (1, 22, 5, {}),
    "other-micro-batch": (1, 22, 5, {"micro_batch_size": 7}),
    "recomputed": (1, 22, 5, {"activation_checkpointing": True}),
    "two-ranks": (2, 22, 5, {}),
    "fsdp": (2, 22, 5, {"parallel": "fsdp"}),
    "three-ranks": (3, 22, 5, {}),
    "idle": (2, 4, 9, {}),
    "undivided": (1, 4, 9, {}),
}
NUM_STEPS = 6


class Examples:
    """Example i is drawn from a generator seeded by i; those read are noted."""

    def __init__(self) -> None:
        self.read_pieces: list[tuple[int, int]] = []

    def read(self, start: int, count: int) -> Batch:
        self.read_pieces.append((start, count))
        rows = [
            torch.randn(5, generator=torch.Generator().manual_seed(i)).double() for i in range(start, start + count)
        ]
        x = torch.stack(rows)
        return Batch({"x": x[:, :4] * 3 + 1, "y": x[:, 4]}, {"square": count}, count)


class Normalised(nn.Module):
    """A block of a linear layer and BatchNorm, and a linear layer, in float64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        # A bias before BatchNorm has no gradient but rounding, which Adam would blow up.
        layers = nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.Tanh()
        self.blocks = nn.ModuleList([nn.Sequential(*layers)])
        self.out = nn.Linear(6, 1)
        self.double()

    def forward(self, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        error = self.out(self.blocks[0](x)).squeeze(-1) - y
        return {"square": error.square().sum()}, {} if self.training else {"square": (error.abs() < 1).sum()}


def grouped_job(batch: int, group: int, examples: Examples | None = None, **settings: Any) -> Job:
    model = Normalised()
    examples = examples or Examples()
    return Job(
        model=model,
        optimizer=LAMB(model.named_parameters(), lr=1.0),
        phases=[Phase(examples, batch, NUM_STEPS, 0.1, 0, lambda t: 1.0, group_size=group)],
        held_out=[Examples().read(10_000, 8)],
        seed=3,
        inputs={"data": "rows"},
        max_grad_norm=None,
        execution=Execution(**{**EXECUTION, "micro_batch_size": 3, **settings}),
        score=lambda finished: {"mean": float(finished.blocks[0][1].running_mean.sum())},
        export=lambda finished, folder: Path(folder).mkdir(exist_ok=True),
        summary={},
    )


def state(job: Job) -> Tensor:
    """All parameters and buffers as one vector, wherever their shards are."""
    values = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in job.model.parameters()]
    return torch.cat([value.detach().flatten().double() for value in [*values, *job.model.buffers()]])


def run_cut(name: str, folder: Path, ranks: Ranks) -> None:
    _, batch, group, settings = CUTS[name]
    run = Run(folder / name)
    if ranks.leader:
        run.path.mkdir()
    job = grouped_job(batch, group, **settings)
    train(job, run, ranks=ranks)
    found = state(job)
    if ranks.leader:
        torch.save(found, folder / f"{name}.pt")


def main(folder: Path) -> None:
    for size in sorted({cut[0] for cut in CUTS.values()}):
        names = [name for name, cut in CUTS.items() if cut[0] == size]

        def work(rank: int, url: str, names: list[str] = names) -> None:
            with join_ranks(url=url) as ranks:
                for name in names:
                    run_cut(name, folder, ranks)

        if size == 1:
            for name in names:
                run_cut(name, folder, Ranks())
        else:
            on_ranks(size, work, folder / "rendezvous")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
