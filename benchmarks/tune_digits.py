"""Finds the reference of `digits-lenet`: the peak rate with the lowest held-out loss at batch 32.

    python benchmarks/tune_digits.py [--folds 0 1] [--workers 2]

Rates a factor of two apart; warm-up and length as in the recipe; the mean over the folds. Larger batches are never
looked at: their settings follow from the reference by rule. Writes benchmarks/results/tune-digits.json; the winner goes
into recipes/small_images.py.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from anybatch.engine import Progress, progress_display
from anybatch.environment import describe_environment
from anybatch.files import write_json
from anybatch.recipes import change, find_recipe, train_recipe
from anybatch.study.workers import run_side_by_side

RATES = (0.0025, 0.005, 0.01, 0.02, 0.04)
RESULTS = Path(__file__).parent / "results" / "tune-digits.json"


def final_scores(lr: float, fold: int, out: Path, progress: Progress) -> dict[str, Any]:
    """One run of the grid."""
    recipe = change(find_recipe("digits-lenet"), [f"reference.lr={lr}", f"data.fold={fold}", "seed=1"])
    return dict(
        train_recipe(recipe, out / f"lr-{lr}-f{fold}", progress=progress, title=f"rate {lr}, fold {fold}")["final"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    environment = {**describe_environment(), "threads": 1, "command": ["tune_digits.py"]}
    trials = [(lr, fold) for lr in RATES for fold in arguments.folds]
    with tempfile.TemporaryDirectory() as scratch, progress_display() as progress:
        calls = [partial(final_scores, *trial, Path(scratch)) for trial in trials]
        scores = dict(zip(trials, run_side_by_side(calls, arguments.workers, progress), strict=True))
    rows = []
    for lr in RATES:
        losses = [scores[lr, fold]["loss"] for fold in arguments.folds]
        right = [scores[lr, fold]["top1"] for fold in arguments.folds]
        rows.append({"lr": lr, "held_out_loss": losses, "mean_loss": mean(losses), "top1": right})
        print(f"rate {lr:<7} held-out loss {mean(losses):.4f}, top-1 {mean(right):.4f}")
    best = min(rows, key=lambda row: float(row["mean_loss"]))["lr"]
    write_json(RESULTS, {"environment": environment, "folds": arguments.folds, "best": best, "rows": rows})
    print(f"best: {best}")


if __name__ == "__main__":
    main()
