"""Images a second of ResNet-20 on CIFAR-10: anybatch's engine beside a plain PyTorch loop, on a CPU.

    python benchmarks/cifar10_throughput.py DATA [--threads 2] [--steps 25] [--repeats 9]

DATA is CIFAR-10 as `data.path` takes it, in parquet; all its training images are used. Both train the same
model with the same optimizer on batches of 128, with the same crops and flips; the plain loop has all images in memory,
draws its batches with torch, and records nothing. They take turns, each time in a process of its own (a run asks the
allocator to keep what it frees, from which the plain loop would gain too), and the medians of all steps are compared:
on a machine with other work, means say little. Images by processor second, of all threads, say what each costs there.
Trust ratios are recorded once, for a run of the recipe's own length does so at one step in a thousand; a run as short
as this one would at every step. Writes benchmarks/results/cifar10-throughput.json.
"""

import argparse
import itertools
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad

from anybatch.data.images.finding import find_images
from anybatch.data.images.views import decode_all
from anybatch.environment import describe_environment
from anybatch.files import write_json
from anybatch.models.classifier import ClassifierSettings, image_classifier
from anybatch.progress import SilentProgress
from anybatch.recipes import ImageRecipe, change, find_recipe, train_recipe
from anybatch.recipes.optimizers import build_optimizer
from anybatch.runs import Run

BATCH = 128
RESULTS = Path(__file__).parent / "results" / "cifar10-throughput.json"


class Marks(SilentProgress):
    """Notes the clock, and the processor time of all threads, at the end of every step."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []

    def advance(self, done: int, note: str) -> None:
        self.marks.append((time.perf_counter(), time.process_time()))


Steps = list[tuple[float, float]]


def ours(recipe: ImageRecipe, folder: Path, threads: int) -> tuple[Steps, list[float]]:
    """(wall, processor) seconds of every step from the second on, and how long it waited for data."""
    torch.set_num_threads(threads)
    progress = Marks()
    train_recipe(recipe, folder, progress=progress)
    waits = [event["data_wait_s"] for event in Run(folder).metrics("train")[1:]]
    return differences(progress.marks), waits


def differences(marks: Steps) -> Steps:
    return [(after[0] - before[0], after[1] - before[1]) for before, after in itertools.pairwise(marks)]


def plain(recipe: ImageRecipe, file: Path, steps: int, threads: int) -> Steps:
    """(wall, processor) seconds of every step from the second on, of a loop that does what is needed and no more."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    pixels, labels = torch.load(file)
    settings = ClassifierSettings("resnet20", 3, 32, 10)
    model = image_classifier(settings, 0)
    optimizer = build_optimizer(model, recipe.optimizer, {"lr": 0.01, "weight_decay": 0.01})
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (recipe.data.mean, recipe.data.std))
    order = torch.randperm(len(pixels))
    progress = Marks()
    for step in range(steps + 1):
        chosen = order[step * BATCH : (step + 1) * BATCH]
        images = pad((pixels[chosen].float() / 255 - mean) / std, (4, 4, 4, 4))
        tops, lefts = torch.randint(9, (2, BATCH)).tolist()
        images = torch.stack([images[n, :, tops[n] : tops[n] + 32, lefts[n] : lefts[n] + 32] for n in range(BATCH)])
        flipped = torch.rand(BATCH) < 0.5
        images[flipped] = images[flipped].flip(3)
        images = images.contiguous(memory_format=torch.channels_last)
        loss = torch.nn.functional.cross_entropy(model.net(images), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        progress.advance(0, "")
    return differences(progress.marks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    mine: Steps = []
    waits: list[float] = []
    theirs: Steps = []
    with tempfile.TemporaryDirectory() as scratch:
        data = with_few_held_out(arguments.data, Path(scratch) / "data")
        training, _ = find_images(data)
        decoded, _ = decode_all(training, 32, 3, 0, lambda name, reason: print(name, reason), 1 << 30)
        pixels = torch.from_numpy(np.ascontiguousarray(decoded.transpose(0, 3, 1, 2)))
        file = Path(scratch) / "images.pt"
        torch.save((pixels, torch.from_numpy(training.labels)), file)
        recipe = change(
            find_recipe("cifar10-resnet20"),
            [
                f"data.path={data}",
                f"reference.num_examples={BATCH * (arguments.steps + 1)}",
                "engine.num_evals=1",
                "engine.num_trust_ratios=1",
            ],
        )
        assert isinstance(recipe, ImageRecipe)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as process:
            for number in range(arguments.repeats):
                theirs += process.submit(plain, recipe, file, arguments.steps, arguments.threads).result()
                steps, waited = process.submit(ours, recipe, Path(scratch) / str(number), arguments.threads).result()
                mine += steps
                waits += waited
    result: dict[str, Any] = {
        "environment": {**describe_environment(), "threads": arguments.threads, "command": ["cifar10_throughput.py"]},
        "num_training": len(pixels),
        "batch_size": BATCH,
        "steps": len(mine),
        "plain_images_per_s": BATCH / median(wall for wall, _ in theirs),
        "anybatch_images_per_s": BATCH / median(wall for wall, _ in mine),
        "plain_images_per_processor_s": BATCH * len(theirs) / sum(busy for _, busy in theirs),
        "anybatch_images_per_processor_s": BATCH * len(mine) / sum(busy for _, busy in mine),
        "data_wait_share": sum(waits) / sum(wall for wall, _ in mine),
        "plain_steps_s": theirs,
        "anybatch_steps_s": mine,
        "data_wait_s": waits,
        "load_average": os.getloadavg()[0],
    }
    for name, value in result.items():
        if isinstance(value, float):
            print(f"{name}: {value:.4g}")
    write_json(RESULTS, result)


def with_few_held_out(data: Path, out: Path) -> Path:
    """A folder with all training images, and 64 for evaluation, which is not what is measured."""
    import pyarrow.parquet as pq

    out.mkdir()
    (out / "train.parquet").symlink_to((data / "train.parquet").resolve())
    pq.write_table(pq.read_table(data / "test.parquet").slice(0, 64), out / "test.parquet")
    return out


if __name__ == "__main__":
    main()
