"""Does accuracy hold from batch 32 to 1,024 on digits, untuned? 5-fold cross-validation of `digits-lenet`.

    python benchmarks/digits_batches.py [--batches 32 64 ... 1024] [--seed 0] [--workers 2]

Every fold is held out once, so that each of the 1,797 images is judged once by a model that has not seen it. The
interval of a batch's accuracy is Wilson's, of 95 %; that of a difference is McNemar's normal approximation, from the
images that one batch gets right and the other wrong. Writes benchmarks/results/digits-batches.json.
"""

import argparse
import math
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from anybatch.data.images.idx import digits
from anybatch.data.images.sets import folded
from anybatch.engine import Progress, progress_display
from anybatch.environment import describe_environment
from anybatch.files import write_json
from anybatch.models.classifier import ImageClassifier
from anybatch.recipes import change, find_recipe, from_json, train_recipe, with_batch_size
from anybatch.recipes.images import Images
from anybatch.runs import Run
from anybatch.study.workers import run_side_by_side

FOLDS = 5
BATCHES = [32, 64, 128, 256, 512, 1024]
RESULTS = Path(__file__).parent / "results" / "digits-batches.json"


def run_fold(batch: int, fold: int, seed: int, out: Path, progress: Progress) -> dict[str, Any]:
    """Which held-out images are right, in the order of the set, and what the run says of itself."""
    recipe = with_batch_size(change(find_recipe("digits-lenet"), [f"data.fold={fold}", f"seed={seed}"]), batch)
    run = Run(out / f"b{batch}-f{fold}")
    result = train_recipe(recipe, run.path, progress=progress, title=f"batch {batch}, fold {fold}")
    model = ImageClassifier.load(run.model).eval()
    resolved = from_json(run.recipe())
    source = Images(resolved, run).held_out_source
    examples = np.arange(source.num_examples)
    inputs = source.batch(np.zeros_like(examples), examples).inputs
    right = (model.logits(inputs["images"]).argmax(1) == inputs["labels"]).tolist()
    keys = ("lr", "warmup_steps", "num_steps", "train_s", "final")
    return {"batch": batch, "fold": fold, "right": right, **{key: result[key] for key in keys}}


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share."""
    share, spread = right / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return middle - half, middle + half


def difference(mine: Any, reference: Any, z: float = 1.96) -> tuple[float, float, float]:
    """(difference, low, high) of two accuracies over the same images, in points."""
    gained, lost = int((mine & ~reference).sum()), int((~mine & reference).sum())
    count = len(mine)
    middle = (gained - lost) / count
    half = z * math.sqrt(gained + lost - (gained - lost) ** 2 / count) / count
    return 100 * middle, 100 * (middle - half), 100 * (middle + half)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    environment = {**describe_environment(), "threads": 1, "command": ["digits_batches.py"]}
    started = time.perf_counter()
    trials = [(batch, fold, arguments.seed) for batch in arguments.batches for fold in range(FOLDS)]
    with tempfile.TemporaryDirectory() as scratch, progress_display() as progress:
        calls = [partial(run_fold, *trial, Path(scratch)) for trial in trials]
        runs = run_side_by_side(calls, arguments.workers, progress)
    wall_s = time.perf_counter() - started
    right = {}
    for batch in arguments.batches:
        marks = np.zeros(len(digits().labels), dtype=np.bool_)
        for run in (run for run in runs if run["batch"] == batch):
            marks[folded(digits().labels, run["fold"], FOLDS)[1]] = run["right"]
        right[batch] = marks
    rows = []
    first = right[arguments.batches[0]]
    for batch in arguments.batches:
        mine = [run for run in runs if run["batch"] == batch]
        low, high = wilson(int(right[batch].sum()), len(first))
        points, least, most = difference(right[batch], first)
        folds = [run["final"]["top1"] for run in mine]
        rows.append(
            {
                "batch_size": batch,
                "lr": mine[0]["lr"],
                "num_steps": mine[0]["num_steps"],
                "top1": float(right[batch].mean()),
                "top1_interval": [low, high],
                "top1_by_fold": folds,
                "points_above_reference": points,
                "points_interval": [least, most],
                "train_s": [run["train_s"] for run in mine],
            }
        )
        print(
            f"batch {batch:5}: top-1 {100 * right[batch].mean():.2f} % ({100 * low:.2f} to {100 * high:.2f}), "
            f"{points:+.2f} points ({least:+.2f} to {most:+.2f}), {mine[0]['num_steps']} steps"
        )
    print(f"{wall_s:.0f} s with {arguments.workers} workers")
    write_json(
        RESULTS,
        {"environment": environment, "seed": arguments.seed, "folds": FOLDS, "wall_s": wall_s, "rows": rows},
    )


if __name__ == "__main__":
    main()
