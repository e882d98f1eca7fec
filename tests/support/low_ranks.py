"""A job whose weights are kept in lower precision, and its likes; run as: low_ranks.py FOLDER for two ranks.

FOLDER/NAME.pt holds the final parameters of each of CASES, FOLDER/NAME its run folder.
"""

import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anybatch.data.batch import Batch
from anybatch.engine import Execution, Job, Phase, join_ranks, train
from anybatch.optim import LAMB, param_groups
from anybatch.runs import Run
from anybatch.scaling import GradientNoiseScale
from support.cut_ranks import whole
from support.forked import on_ranks
from support.linear_job import EXECUTION

# name: engine settings
CASES: dict[str, dict[str, Any]] = {
    "cast": {"low_precision_weights": False},
    "kept": {"low_precision_weights": True},
    "cast-sent-bf16": {"low_precision_weights": False, "gradient_dtype": "bf16"},
    "kept-sent-bf16": {"low_precision_weights": True, "gradient_dtype": "bf16"},
    "fsdp": {"parallel": "fsdp", "low_precision_weights": True},
    "fsdp-batch-norm": {"parallel": "fsdp", "low_precision_weights": True},
}


@dataclass(frozen=True)
class Words:
    """Example i has 3 words; all is drawn from a generator seeded by i."""

    def read(self, start: int, count: int) -> Batch:
        rows = [
            torch.randint(11, (3,), generator=torch.Generator().manual_seed(i)) for i in range(start, start + count)
        ]
        words = torch.stack(rows)
        return Batch({"words": words}, {"next": 2 * count}, count, sum(7**i for i in range(start, start + count)))


class Reader(nn.Module):
    """Every kind of weight: an embedding, tied to a linear layer; linear layers, one used twice; norms; one unused."""

    def __init__(self, batch_norm: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)) for _ in range(2))
        self.norm = nn.BatchNorm1d(8) if batch_norm else nn.LayerNorm(8)
        self.decoder = nn.Linear(8, 11)
        self.decoder.weight = self.embedding.weight
        self.spare = nn.Linear(3, 3)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator))

    def forward(self, words: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        hidden = self.embedding(words[:, :-1]).flatten(0, 1)
        for layer in [*self.layers, self.layers[0]]:
            hidden = hidden + layer(hidden).tanh()
        scores = self.decoder(self.norm(hidden))
        right = {} if self.training else {"next": (scores.argmax(-1) == words[:, 1:].flatten()).sum()}
        return {"next": nn.functional.cross_entropy(scores.float(), words[:, 1:].flatten(), reduction="sum")}, right


def reading_job(num_steps: int = 8, batch_norm: bool = True, **execution: Any) -> Job:
    model = Reader(batch_norm)
    return Job(
        model=model,
        optimizer=LAMB(param_groups(model), lr=1.0),
        phases=[Phase(Words(), 10, num_steps, 0.05, 0, lambda t: 1 - t / num_steps)],
        held_out=[Words().read(1_000, 8)],
        seed=3,
        inputs={},
        max_grad_norm=1.0,
        execution=Execution(**{**EXECUTION, "micro_batch_size": 3, "precision": "bf16", "noise_every": 3, **execution}),
        score=lambda finished: {"parameter": next(finished.parameters())[0, 0].item()},
        export=lambda finished, folder: torch.save(finished.state_dict(), Path(folder) / "model.pt"),
        summary={},
        noise_meter=partial(GradientNoiseScale, every=None, window=1),
    )


def run_of(job: Job, folder: Path, **others: Any) -> Run:
    folder.mkdir(exist_ok=True)
    train(job, Run(folder), **others)
    return Run(folder)


def rank_main(folder: Path, name: str, rank: int, url: str) -> None:
    torch.set_num_threads(1)
    with join_ranks(url=url) as ranks:
        job = reading_job(4, name != "fsdp", **CASES[name])
        run_of(job, folder / name, ranks=ranks)
        found = whole(job)
        if ranks.leader:
            torch.save(found, folder / f"{name}.pt")
    os._exit(0)


if __name__ == "__main__":
    top = Path(sys.argv[1])
    for case in CASES:
        on_ranks(2, partial(rank_main, top, case), top / "rendezvous")
