"""One job cut in many ways, over processes and micro-batches; run as: cut_ranks.py FOLDER.

FOLDER/NAME is the run folder of a cut, with parameters.pt: the final parameters as rank 0 has them.
"""

import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from anybatch.engine import Fsdp, Ranks, join_ranks, train
from anybatch.engine.gradient_sum import GradientSum
from anybatch.engine.job import Job
from anybatch.errors import Elsewhere, Stopped
from anybatch.runs import Run
from anybatch.scaling import GradientNoiseScale
from support.forked import on_ranks
from support.linear_job import RaggedExamples, parameters, regression_job

NUM_STEPS = 50
# The gradient noise is measured on the way, which must change nothing.
METER = partial(GradientNoiseScale, every=None, window=1)
# name: (ranks, global batch, micro-batch, optimizer, engine settings)
CUTS: dict[str, tuple[int, int, int, str, dict[str, Any]]] = {
    "2x2": (2, 10, 3, "lamb", {"prefetch": True, "async_checkpoints": True}),
    "fsdp-2x3": (2, 10, 2, "lamb", {"parallel": "fsdp"}),
    "fsdp-adamw": (2, 10, 9, "adamw", {"parallel": "fsdp", "fsdp": Fsdp(reshard_after_forward=False)}),
    "recomputed": (2, 10, 5, "lamb", {"activation_checkpointing": True}),
    "3x1": (3, 10, 4, "lamb", {}),
    "fsdp-3x4": (3, 10, 1, "lamb", {"parallel": "fsdp", "activation_checkpointing": True}),
    "idle": (4, 3, 1, "lamb", {}),
    "fsdp-idle": (4, 3, 2, "lamb", {"parallel": "fsdp"}),
}
# What rounds to bf16 on the way: near the same trajectory, and not on it.
ROUNDED: dict[str, tuple[int, int, int, str, dict[str, Any]]] = {
    "bf16-sums": (2, 10, 5, "lamb", {"gradient_dtype": "bf16"}),
    "fsdp-bf16": (2, 10, 5, "lamb", {"parallel": "fsdp", "fsdp": Fsdp(param_dtype="bf16")}),
}
# One run: (ranks, settings, the position at which it is asked to stop).
ELASTIC: list[tuple[int, dict[str, Any], int]] = [
    (1, {}, 100),
    (3, {}, 220),
    (2, {"async_checkpoints": True}, 330),
    (2, {"parallel": "fsdp", "async_checkpoints": True}, 410),
    (1, {}, 10**9),
]


class StopAt(RaggedExamples):
    """Asks this process to stop once an example from `position` on is read."""

    def __init__(self, position: int) -> None:
        super().__init__()
        self.position = position

    def read(self, start: int, count: int) -> Any:
        if self.position <= start < self.position + 10:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().read(start, count)


def job_of(global_batch_size: int, micro_batch_size: int, optimizer: str, **changes: Any) -> Job:
    return regression_job(
        num_steps=NUM_STEPS,
        global_batch_size=global_batch_size,
        micro_batch_size=micro_batch_size,
        optimizer=optimizer,
        **changes,
    )


def whole(job: Job) -> torch.Tensor:
    """All parameters as one vector, wherever their shards are."""
    values = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in job.model.parameters()]
    return torch.cat([value.detach().flatten() for value in values])


def run_cut(name: str, folder: Path, ranks: Ranks) -> None:
    _, batch, micro, optimizer, settings = {**CUTS, **ROUNDED}[name]
    run = Run(folder / name)
    if ranks.leader:
        run.path.mkdir()
    job = job_of(batch, micro, optimizer, execution={"noise_every": 3, **settings}, noise_meter=METER)
    train(job, run, ranks=ranks)
    found = whole(job)
    if ranks.leader:
        torch.save(found, run.path / "parameters.pt")
    if "parallel" not in settings:
        mine = parameters(job)
        theirs = mine.clone()
        dist.broadcast(theirs, 0)
        assert torch.equal(mine, theirs), "ranks that hold the same parameters hold the same bits"


def sum_gradients(ranks: Ranks) -> None:
    """Parameters used by both ranks, by rank 1 alone, by none; in buckets of at most two small tensors."""
    params = [nn.Parameter(torch.full((3,), float(n))) for n in range(5)]
    summed = GradientSum(params, ranks, bucket_bytes=24)
    for _ in range(2):
        for p in params:
            p.grad = None
        loss = sum((n + 1) * params[n].sum() for n in ([0, 2, 4] if ranks.rank else [0, 4]))
        loss.backward()
        summed.begin()
        loss = sum((n + 1) * params[n].sum() for n in ([0, 2, 4] if ranks.rank else [0, 4]))
        loss.backward()
        summed.finish()
        found = [None if p.grad is None else p.grad[0].item() for p in params]
        assert found == [4.0, None, 6.0, None, 20.0], found


def elastic(folder: Path, stage: int, ranks: Ranks) -> None:
    _, settings, position = ELASTIC[stage]
    job = job_of(10, 3, "lamb", examples=StopAt(position), execution=settings)
    run = Run(folder / "elastic")
    try:
        train(job, run, ranks=ranks)
        torch.save(whole(job), run.path / "parameters.pt")
    except (Stopped, Elsewhere):
        assert position < 10**9


def main(folder: Path) -> None:
    for size in sorted({cut[0] for cut in CUTS.values()}):

        def work(rank: int, url: str, size: int = size) -> None:
            with join_ranks(url=url) as ranks:
                for name in (name for name, cut in {**CUTS, **ROUNDED}.items() if cut[0] == size):
                    run_cut(name, folder, ranks)
                if size == 2:
                    sum_gradients(ranks)

        on_ranks(size, work, folder / "rendezvous")
    (folder / "elastic").mkdir()
    for stage, (size, _, _) in enumerate(ELASTIC):

        def part(rank: int, url: str, stage: int = stage, size: int = size) -> None:
            if size == 1:
                elastic(folder, stage, Ranks())
                return
            with join_ranks(url=url) as ranks:
                elastic(folder, stage, ranks)

        on_ranks(size, part, folder / "rendezvous")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
