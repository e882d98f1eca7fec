"""What measuring the gradient noise costs a run: the engine's steps with and without it, by turns.

    python benchmarks/noise_scale_overhead.py [--recipe bert-mini ...] [--rounds 40] [-o FILE.json]

Every second step is watched, as the engine watches every hundredth: a batch of one micro-batch is cut in two. Prints
the medians in seconds of the processor, which other work on the machine moves little, the spread of the watched over
the other steps by quarters of the run, and what is left of it where every hundredth is.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from anybatch.engine import Ranks
from anybatch.engine.loading import cut, read_share
from anybatch.engine.measure import WatchedNoise
from anybatch.engine.parallel import parallelize
from anybatch.engine.step import train_step
from anybatch.environment import describe_environment
from anybatch.recipes import find_recipe
from anybatch.recipes.tasks import build
from anybatch.runs import Run

EVERY = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", nargs="+", default=["digits-lenet", "bert-demo", "bert-mini"])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = {"environment": describe_environment(), "rounds": arguments.rounds, "every": EVERY}
    found |= {name: measure(name, arguments.rounds) for name in arguments.recipe}
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Steps of a recipe at its own batch and micro-batch."""
    recipe = find_recipe(name)
    with TemporaryDirectory() as scratch:
        job = build(recipe, Run(Path(scratch)))
        job = replace(job, execution=replace(job.execution, noise_every=2))
        parallel = parallelize(job, Ranks())
        noise, phase = WatchedNoise(job, parallel), job.phases[0]
        job.model.train()
        times: tuple[list[float], list[float]] = ([], [])
        for step in range(2 * rounds + 4):
            micro = phase.group_size or recipe.engine.evaluation_batch_size
            micro = noise.micro_batch_size(step, phase, micro)
            pieces = cut(step * phase.global_batch_size, phase.global_batch_size, 0, 1, micro, phase.group_size)
            read = read_share(phase.examples, pieces)
            share = replace(read, micro_batches=list(read.micro_batches))
            meter = noise.meter(step, phase)
            started = time.process_time()
            train_step(parallel, job.optimizer, share, job.max_grad_norm, meter=meter)
            taken = time.process_time() - started
            if step >= 4:
                times[meter is not None].append(taken)
    plain, watched = map(median, times)
    quarters = [median(times[1][k::4]) / median(times[0][k::4]) - 1 for k in range(4)]
    share_of_step = (watched / plain - 1) / EVERY
    print(
        f"{name}, batch {phase.global_batch_size}: a step {1e3 * plain:.2f} ms, watched {1e3 * watched:.2f} ms "
        f"({min(quarters):+.1%} to {max(quarters):+.1%}), with every {EVERY}th watched {share_of_step:+.2%} a step"
    )
    return {"step_s": plain, "watched_s": watched, "watched_over_step": quarters, "overhead": share_of_step}


if __name__ == "__main__":
    main()
