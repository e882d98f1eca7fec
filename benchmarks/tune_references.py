"""Finds the references of a demo: for each optimizer, the best peak rate at the small batch.

    python benchmarks/tune_references.py [gpt-demo | bert-demo] [--out DIR] [--seeds 10 11]

Rates a factor of sqrt(2) apart around the best, which must not lie at an end of them; warm-up and length as in the
recipe; the mean over the seeds, which are not those of the demo. The recipe's rate is the lowest whose loss is
within 0.5 % of the best: where two do as well, the one that leaves the rule room to multiply it. Larger batches are
never looked at: their settings follow from the reference by rule. Writes benchmarks/results/tune-RECIPE.json.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path
from statistics import mean

from anybatch.engine import Progress, progress_display
from anybatch.environment import describe_environment
from anybatch.files import write_json
from anybatch.recipes import change, find_recipe, train_recipe
from anybatch.recipes.builtin_text import prepare_builtin_text
from anybatch.recipes.recipe import CorpusSettings
from anybatch.study.workers import run_side_by_side

GRIDS = {
    "gpt-demo": {
        "gpt-demo": (0.0025, 0.0035, 0.005, 0.007, 0.01),
        "gpt-demo-adamw": (0.002, 0.0028, 0.004),
    },
    "bert-demo": {
        "bert-demo": (0.0056, 0.008, 0.011, 0.016, 0.022),
        "bert-demo-adamw": (0.001, 0.0014, 0.002, 0.0028, 0.004),
    },
}
# Below what two seeds differ by.
AS_GOOD = 0.005
RESULTS = Path(__file__).parent / "results"


def held_out_loss(name: str, lr: float, seed: int, out: Path, progress: Progress) -> float:
    """One run of the grid."""
    settings = [f"seed={seed}", f"reference.lr={lr}", f"data.path={out / 'data'}", "engine.noise_every=0"]
    recipe = change(find_recipe(name), settings)
    title = f"{name}, rate {lr}, seed {seed}"
    result = train_recipe(recipe, out / name / f"lr-{lr}-s{seed}", resume=True, progress=progress, title=title)
    return float(result["final"]["loss"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", choices=GRIDS, default="gpt-demo")
    parser.add_argument("--out", type=Path, help="keep the runs here; default: a folder that is removed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[10])
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    grid = GRIDS[arguments.recipe]
    data = find_recipe(arguments.recipe).data
    assert isinstance(data, CorpusSettings)
    environment = {**describe_environment(), "threads": 1}
    trials = [(name, lr, seed) for name, rates in grid.items() for lr in rates for seed in arguments.seeds]
    with tempfile.TemporaryDirectory() as scratch, progress_display() as progress:
        out = arguments.out or Path(scratch)
        if not (out / "data").exists():
            prepare_builtin_text(out / "data", data.tokenizer or "wordpiece")
        calls = [partial(held_out_loss, *trial, out) for trial in trials]
        losses = dict(zip(trials, run_side_by_side(calls, arguments.workers, progress), strict=True))
    rows = []
    for name, tried in grid.items():
        for lr in tried:
            each = [losses[name, lr, seed] for seed in arguments.seeds]
            rows.append({"recipe": name, "lr": lr, "held_out_loss": each, "mean": mean(each)})
            print(f"{name:16} rate {lr:<7} held-out loss {mean(each):.4f}  {[round(value, 4) for value in each]}")
    best, chosen = {}, {}
    for name, rates in grid.items():
        means = {row["lr"]: row["mean"] for row in rows if row["recipe"] == name}
        best[name] = min(means, key=means.__getitem__)
        chosen[name] = min(lr for lr, loss in means.items() if loss <= (1 + AS_GOOD) * means[best[name]])
        if best[name] in (min(rates), max(rates)):
            print(f"{name}: the best, {best[name]}, lies at the end of its grid; go on beyond it")
    write_json(
        RESULTS / f"tune-{arguments.recipe}.json",
        {"environment": environment, "seeds": arguments.seeds, "best": best, "chosen": chosen, "rows": rows},
    )
    print(f"best: {best}, chosen: {chosen}")


if __name__ == "__main__":
    main()
