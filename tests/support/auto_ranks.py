"""Two ranks that look for their micro-batch by themselves; run as: auto_ranks.py FOLDER.

FOLDER/CASE/rank-N.json holds what rank N found: sizes and parameters, or an error.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from anybatch.engine import join_ranks, train
from anybatch.engine.loading import cut, on_device, read_share
from anybatch.engine.micro_batch import choose_micro_batch_sizes
from anybatch.engine.parallel import Parallel, parallelize
from anybatch.engine.ranks import Ranks
from anybatch.engine.step import train_step
from anybatch.progress import SilentProgress
from anybatch.runs import Run
from support.cut_ranks import whole
from support.forked import exit_codes, fork
from support.linear_job import RaggedExamples, regression_job

CASES = {"ddp", "fsdp", "fsdp-one-out", "fsdp-both-out", "broken"}


class OutOfMemory(torch.autograd.Function):
    """A gradient that takes more memory than there is."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")


class Fullness:
    """A memory in which an example takes about 100 bytes, and rank 1 has less of it."""

    def __init__(self, made: Parallel) -> None:
        self.rank, self.number = made.ranks.rank, 0
        self.moments = 3 * 8 * sum(len(getattr(p, "_local_tensor", p).flatten()) for p in made.module.parameters())

    def available(self) -> int:
        return self.moments + (4_000 if self.rank == 0 else 350)

    def peak(self, call: Callable[[], None]) -> int:
        call()
        self.number += 1
        # The warm-up, then 1, 2, half of what fits, what fits.
        return 100 * [1, 1, 2, 3, 3][self.number - 1]


def main(folder: Path, case: str, rank: int) -> int:
    told: dict[str, Any] = {"error": ""}
    try:
        with join_ranks(url=f"file://{folder}/rendezvous?rank={rank}&world_size=2") as ranks:
            told.update(_case(case, ranks, folder))
    except BaseException as error:
        told["error"] = str(error) or type(error).__name__
    (folder / f"rank-{rank}.json").write_text(json.dumps(told))
    return 0


def _case(case: str, ranks: Ranks, folder: Path) -> dict[str, Any]:
    parallel = "ddp" if case == "ddp" else "fsdp"
    execution = {"micro_batch_size": "auto", "parallel": parallel}
    job = regression_job(num_steps=3, global_batch_size=20, execution=execution)
    runs_out = case == "broken" or case == "fsdp-both-out" or (case == "fsdp-one-out" and ranks.rank == 1)
    if case in ("ddp", "fsdp"):
        made = parallelize(job, ranks)
        sizes = choose_micro_batch_sizes(job, made, SilentProgress(), Fullness(made))
        job = regression_job(
            num_steps=3, global_batch_size=20, micro_batch_size=sizes[0], execution={"parallel": parallel}
        )
        run = Run(folder / "run")
        run.path.mkdir(exist_ok=True)
        train(job, run, ranks=ranks)
        return {"sizes": sizes, "parameters": whole(job).tolist()}
    made = parallelize(job, ranks)
    hook = job.model.hidden.register_forward_hook(lambda *args: OutOfMemory.apply(args[-1])) if runs_out else None
    if case != "broken":
        choose_micro_batch_sizes(job, made, SilentProgress(), Fullness(made))
        return {}
    _break(made)
    assert hook is not None
    hook.remove()
    train_step(made, job.optimizer, read_share(RaggedExamples(), cut(0, 8, ranks.rank, 2, 4)), None)
    return {}


def _break(made: Parallel) -> None:
    """A backward pass that an exception leaves."""
    try:
        sums, _ = made.module(**on_device(RaggedExamples().read(0, 4).inputs, made.ranks.device))
        made.backward(torch.stack(list(sums.values())).sum(), last=True)
    except torch.OutOfMemoryError:
        made.module.zero_grad()


if __name__ == "__main__":
    top = Path(sys.argv[1])
    processes = []
    for case in sorted(CASES):
        (top / case).mkdir()
        processes += [fork(partial(main, top / case, case, rank), top / case / f"printed-{rank}") for rank in (0, 1)]
    exit_codes(processes)
