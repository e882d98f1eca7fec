"""Images a second of ResNet-20 on CIFAR-10: anybatch's engine beside a plain PyTorch loop, on a CPU.

    python benchmarks/cifar10_throughput.py DATA [--threads 2] [--steps 20] [--repeats 3]

DATA is a folder that `data.path` can be. Both train the same model with the same optimizer on the same batches of 128,
with the same crops and flips; the plain loop has all images in memory, draws its batches with torch, and records
nothing. They take turns, and the medians are compared. Writes benchmarks/results/cifar10-throughput.json.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad

from anybatch.data.images.finding import find_images
from anybatch.data.images.views import decode_all
from anybatch.engine.environment import describe_environment
from anybatch.files import write_json
from anybatch.models import ClassifierSettings, image_classifier
from anybatch.recipes import ImageRecipe, change, find_recipe, train_recipe
from anybatch.recipes.optimizers import build_optimizer
from anybatch.runs import Run

BATCH = 128
RESULTS = Path(__file__).parent / "results" / "cifar10-throughput.json"


def ours(recipe: ImageRecipe, steps: int, folder: Path) -> dict[str, float]:
    """Images a second from the second step on, and the share of that time that the engine waited for data."""
    train_recipe(recipe, folder)
    events = Run(folder).metrics("train")[1 : steps + 1]
    train_s = sum(event["step_s"] for event in events)
    return {
        "images_per_s": BATCH * len(events) / train_s,
        "data_wait_share": sum(event["data_wait_s"] for event in events) / train_s,
    }


def plain(recipe: ImageRecipe, pixels: torch.Tensor, labels: torch.Tensor, steps: int) -> float:
    """Images a second of a loop that does what is needed and no more."""
    torch.manual_seed(0)
    settings = ClassifierSettings("resnet20", 3, 32, 10)
    model = image_classifier(settings, 0)
    optimizer = build_optimizer(model, recipe.optimizer, 0.01)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (recipe.data.mean, recipe.data.std))
    order = torch.randperm(len(pixels))
    started = 0.0
    for step in range(steps + 1):
        if step == 1:
            started = time.perf_counter()
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
    return BATCH * steps / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    training, _ = find_images(arguments.data)
    decoded, _ = decode_all(training, 32, 3, 0, lambda name, reason: print(name, reason), 1 << 30)
    pixels = torch.from_numpy(np.ascontiguousarray(decoded.transpose(0, 3, 1, 2)))
    labels = torch.from_numpy(training.classes.labels)
    with tempfile.TemporaryDirectory() as scratch:
        small = held_out_part(arguments.data, Path(scratch) / "data")
        recipe = change(
            find_recipe("cifar10-resnet20"),
            [f"data.path={small}", f"reference.num_examples={BATCH * (arguments.steps + 1)}", "engine.num_evals=1"],
        )
        assert isinstance(recipe, ImageRecipe)
        mine: list[dict[str, float]] = []
        theirs: list[float] = []
        for number in range(arguments.repeats):
            theirs.append(plain(recipe, pixels, labels, arguments.steps))
            mine.append(ours(recipe, arguments.steps, Path(scratch) / str(number)))
            print(f"plain {theirs[-1]:.1f} images/s, anybatch {mine[-1]['images_per_s']:.1f}, "
                  f"waited for data {100 * mine[-1]['data_wait_share']:.2f} % of the time")  # fmt: skip
    result: dict[str, Any] = {
        "environment": {**describe_environment(), "threads": arguments.threads, "command": ["cifar10_throughput.py"]},
        "batch_size": BATCH,
        "steps": arguments.steps,
        "plain_images_per_s": theirs,
        "anybatch_images_per_s": [each["images_per_s"] for each in mine],
        "data_wait_share": [each["data_wait_share"] for each in mine],
        "ratio_of_medians": median(each["images_per_s"] for each in mine) / median(theirs),
    }
    print(f"ratio of medians {result['ratio_of_medians']:.3f}")
    write_json(RESULTS, result)


def held_out_part(data: Path, out: Path, count: int = 256) -> Path:
    """A folder with all images for training and `count` for evaluation, which is not what is measured."""
    import pyarrow.parquet as pq

    out.mkdir()
    (out / "train.parquet").symlink_to((data / "train.parquet").resolve())
    pq.write_table(pq.read_table(data / "test.parquet").slice(0, count), out / "test.parquet")
    return out


if __name__ == "__main__":
    main()
