"""The critical batch by branching, beside the noise scale and beside whole runs; and the ramp that follows it.

    python benchmarks/critical_batch.py [--seeds 0 1 2] [--out FOLDER]

The GPT on characters of `anybatch demo`, LAMB, from a reference at batch 16 over 16,384 windows, at the best rate of
scaling_rules.py. For each seed: branches at 10, 30 and 60 % of the run; the gradient noise scale of the first 256
steps; whole runs at batches 16 to 256 over the same examples; and the ramp that the branches propose, beside the
constant batch. Writes benchmarks/results/critical-batch.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from scaling_rules import MIDDLE, RESULTS, final_loss, recipe_of

from anybatch.environment import describe_environment
from anybatch.files import write_json
from anybatch.numbers import null_for_nonfinite
from anybatch.progress import SilentProgress
from anybatch.recipes import change
from anybatch.recipes.builtin_text import prepare_builtin_text
from anybatch.runs import Run
from anybatch.study import branching
from anybatch.study.advise import advise
from anybatch.study.measuring import Trainer

POINTS = (0.1, 0.3, 0.6)
FACTORS = (1, 2, 4, 8, 16)
TOLERANCE = 0.02
OUT = RESULTS.parent / "critical-batch.json"


def measured(seed: int, lr: float, out: Path, data: Path) -> dict[str, Any]:
    """Everything about one seed."""
    recipe = recipe_of(MIDDLE, "lamb", lr, MIDDLE.batch, seed, data)
    trainer, place = Trainer(SilentProgress()), out / f"seed-{seed}"
    branched = branching.advise(recipe, POINTS, FACTORS, TOLERANCE, "", place / "branches", trainer)
    noise = advise(recipe, 256, trainer, folder=place / "advice")["noise_scale"]
    whole = {
        batch: final_loss(recipe_of(MIDDLE, "lamb", lr, batch, seed, data), place / f"whole-b{batch}")
        for batch in (MIDDLE.batch * factor for factor in FACTORS)
    }
    stages = ",".join(f"{batch}@{share:.6g}" for share, batch in branched["ramp"])
    ramped = change(recipe, [f"ramp={stages}"])
    ramp_loss = final_loss(ramped, place / "ramp")
    steps = {name: Run(place / name).result()["num_steps"] for name in (f"whole-b{MIDDLE.batch}", "ramp")}
    print(json.dumps({"seed": seed, "whole": whole, "ramp": stages, "ramp_loss": ramp_loss}), flush=True)
    parts = ("critical_batch", "fit", "ramp", "cost_examples", "tolerance")
    return {
        "seed": seed,
        "branches": null_for_nonfinite({name: branched[name] for name in parts}),
        "noise_scale": {name: noise[name] for name in ("value", "low", "high")},
        "whole_runs": {str(batch): loss for batch, loss in whole.items()},
        "ramp": {"stages": stages, "loss": ramp_loss, "steps": steps["ramp"]},
        "constant": {"loss": whole[MIDDLE.batch], "steps": steps[f"whole-b{MIDDLE.batch}"]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/critical-batch"))
    arguments = parser.parse_args()
    lr = json.loads(RESULTS.read_text(encoding="utf-8"))["tuning"]["lamb"]["lr"]
    data = arguments.out / "data"
    if not data.exists():
        prepare_builtin_text(data, "characters")
    rows = []
    for seed in arguments.seeds:
        rows.append(measured(seed, lr, arguments.out, data))
        found = {"environment": describe_environment(), "examples": MIDDLE.num_examples, "lr": lr, "seeds": rows}
        write_json(OUT, found)


if __name__ == "__main__":
    main()
