"""What GradientNoiseScale costs: steps of BERT with and without it, by turns, in seconds of the processor.

    python benchmarks/noise_scale_overhead.py [--recipe bert-mini] [--rounds 40]

Prints the median extra time of a measured step, and what that is a step where every 10th is measured.
"""

import argparse
import time
from statistics import median

import torch

from anybatch import GradientNoiseScale
from anybatch.recipes import find_recipe
from anybatch.study.noise_run import backward, built, micro_batch_sizes, take_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="bert-mini")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe = find_recipe(arguments.recipe)
    batch_size = recipe.phases[0].batch_size
    sizes = micro_batch_sizes(batch_size, 32)
    with built(recipe) as job:
        # Measures every second step: the hooks of the others return at once.
        for name, optimizer in (("plain", None), ("plain and preconditioned", job.optimizer)):
            noise = GradientNoiseScale(job.model, optimizer, every=2)
            times: tuple[list[float], list[float]] = ([], [])
            for number in range(2 * arguments.rounds):
                started = time.process_time()
                backward(job.model, job.phases[0].examples, number * batch_size, sizes, noise)
                noise.step()
                take_step(job)
                times[number % 2].append(time.process_time() - started)
            with_it, without = median(times[0][2:]), median(times[1][2:])
            extra = with_it / without - 1
            print(
                f"{arguments.recipe}, {name}: a step {1e3 * without:.1f} ms, measured {1e3 * with_it:.1f} ms: "
                f"{extra:+.1%}, with every=10 {extra / 10:+.2%} a step"
            )
            noise.remove()


if __name__ == "__main__":
    main()
