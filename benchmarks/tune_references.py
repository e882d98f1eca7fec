"""Finds the references of the demo: for each optimizer, the peak rate with the lowest held-out loss at the small batch.

    python benchmarks/tune_references.py [--out DIR] [--seeds 0 1]

A grid of rates over 1.5 decades around the recipe's own, warm-up and length as in the recipe, the mean over the seeds.
Larger batches are never looked at: their settings follow from the reference by rule. Writes
benchmarks/results/tune-references.json; put the winner into recipes/bert.py.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import mean

from anybatch.engine import progress_display
from anybatch.engine.environment import describe_environment
from anybatch.files import write_json
from anybatch.recipes import change, find_recipe, train_recipe
from anybatch.recipes.builtin_text import prepare_builtin_text
from anybatch.study.demo import RECIPES

GRID = {
    "bert-demo": (0.004, 0.0056, 0.008, 0.011, 0.016, 0.022),
    "bert-demo-adamw": (0.0007, 0.001, 0.0014, 0.002, 0.0028, 0.004),
}
RESULTS = Path(__file__).parent / "results" / "tune-references.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="keep the runs here; default: a folder that is removed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, progress_display() as progress:
        out = arguments.out or Path(scratch)
        if not (out / "data").exists():
            prepare_builtin_text(out / "data")
        rows = []
        for name in RECIPES:
            for lr in GRID[name]:
                losses = []
                for seed in arguments.seeds:
                    recipe = change(find_recipe(name), [f"seed={seed}", f"reference.lr={lr}", f"data.path={out / 'data'}"])
                    folder = out / name / f"lr-{lr}-s{seed}"
                    result = train_recipe(recipe, folder, resume=True, progress=progress, title=f"{name}, rate {lr}")
                    losses.append(result["final"]["loss"])
                rows.append({"recipe": name, "lr": lr, "losses": losses, "mean": mean(losses)})
                progress.say(f"{name}, rate {lr}: held-out loss {mean(losses):.4f} {losses}")
    best = {name: min((row for row in rows if row["recipe"] == name), key=lambda row: row["mean"])["lr"] for name in RECIPES}
    write_json(RESULTS, {"environment": describe_environment(), "seeds": arguments.seeds, "best": best, "rows": rows})
    print(best)


if __name__ == "__main__":
    main()
