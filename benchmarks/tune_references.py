"""Finds the references of the demo: for each optimizer, the peak rate with the lowest held-out loss at the small batch.

    python benchmarks/tune_references.py [--out DIR] [--seeds 0 1]

The same number of rates for each optimizer, a factor of sqrt(2) apart; warm-up and length as in the recipe; the mean
over the seeds. Larger batches are never looked at: their settings follow from the reference by rule. Writes
benchmarks/results/tune-references.json; the winner goes into recipes/bert.py.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path
from statistics import mean

from anybatch.engine import Progress, progress_display
from anybatch.engine.environment import describe_environment
from anybatch.files import write_json
from anybatch.recipes import change, find_recipe, train_recipe
from anybatch.recipes.builtin_text import prepare_builtin_text
from anybatch.study.workers import run_side_by_side

GRID = {
    "bert-demo": (0.0056, 0.008, 0.011, 0.016, 0.022),
    "bert-demo-adamw": (0.001, 0.0014, 0.002, 0.0028, 0.004),
}
RESULTS = Path(__file__).parent / "results" / "tune-references.json"


def held_out_loss(name: str, lr: float, seed: int, out: Path, progress: Progress) -> float:
    """One run of the grid."""
    recipe = change(find_recipe(name), [f"seed={seed}", f"reference.lr={lr}", f"data.path={out / 'data'}"])
    title = f"{name}, rate {lr}, seed {seed}"
    result = train_recipe(recipe, out / name / f"lr-{lr}-s{seed}", resume=True, progress=progress, title=title)
    return float(result["final"]["loss"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="keep the runs here; default: a folder that is removed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    environment = {**describe_environment(), "threads": 1}
    trials = [(name, lr, seed) for name, rates in GRID.items() for lr in rates for seed in arguments.seeds]
    with tempfile.TemporaryDirectory() as scratch, progress_display() as progress:
        out = arguments.out or Path(scratch)
        if not (out / "data").exists():
            prepare_builtin_text(out / "data")
        calls = [partial(held_out_loss, *trial, out) for trial in trials]
        losses = dict(zip(trials, run_side_by_side(calls, arguments.workers, progress), strict=True))
    rows = []
    for name, rates in GRID.items():
        for lr in rates:
            each = [losses[name, lr, seed] for seed in arguments.seeds]
            rows.append({"recipe": name, "lr": lr, "held_out_loss": each, "mean": mean(each)})
            print(f"{name:16} rate {lr:<7} held-out loss {mean(each):.4f}  {[round(value, 4) for value in each]}")
    best = {
        name: min((row for row in rows if row["recipe"] == name), key=lambda row: row["mean"])["lr"] for name in GRID
    }
    write_json(
        RESULTS,
        {"environment": environment, "seeds": arguments.seeds, "best": best, "rows": rows},
    )
    print(f"best: {best}")


if __name__ == "__main__":
    main()
