"""Which rule carries a tuned run furthest, to larger and to smaller batches, and which does harm?

    python benchmarks/scaling_rules.py [--seeds 0 1 2] [--out FOLDER]

The GPT on characters of `anybatch demo`, tuned at batch 16 (five learning rates for each optimizer, the best
bracketed on both sides; chosen is the lowest within 0.5 % of the best), then carried by every preset to batches 1 to
256 over the same 16,384 windows, nothing tuned. Where `sde` ends because beta1 would leave [0, 1), beta1 is kept, and
the row says so. Runs in --out are not run again. Writes benchmarks/results/scaling-rules.json: the tuning, a row a
run, and for each rule and batch the excess over the run of the same seed at batch 16.
"""

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anybatch.engine.environment import describe_environment
from anybatch.engine.progress import SilentProgress
from anybatch.errors import Failed, InputError
from anybatch.files import write_json
from anybatch.recipes import Recipe, change, find_recipe, train_recipe
from anybatch.recipes.builtin_text import prepare_builtin_text
from anybatch.runs import Run

REFERENCE = 16
NUM_EXAMPLES = 16_384
BATCHES = (64, 256, 4, 1)
RULES = ("sqrt", "linear", "sde", "half-life")
RATES = {"lamb": (0.01, 0.014, 0.02, 0.028, 0.04), "adamw": (0.002, 0.004, 0.0056, 0.008, 0.016)}
TUNING_SEED = 100
MARGIN = 1.005  # chosen is the lowest rate whose loss is within 0.5 % of the best: a rule then has room to multiply it
RESULTS = Path(__file__).parent / "results" / "scaling-rules.json"


def recipe_of(optimizer: str, lr: float, batch: int, seed: int, data: Path, *changes: str) -> Recipe:
    """The demo's recipe with a reference at batch 16."""
    return change(
        find_recipe("gpt-demo" if optimizer == "lamb" else "gpt-demo-adamw"),
        [
            f"data.path={data}", f"reference.batch_size={REFERENCE}", f"reference.lr={lr}", f"seed={seed}",
            f"reference.num_examples={NUM_EXAMPLES}", f"reference.warmup_ratio={1 / 32}",
            f"phases.0.batch_size={batch}", "engine.noise_every=0",
            "engine.num_evals=1", "engine.num_trust_ratios=1", "engine.checkpoint_every_steps=100000", *changes,
        ],
    )  # fmt: skip


def final_loss(recipe: Recipe, folder: Path) -> float | None:
    """The held-out loss at the end; None if the loss was lost."""
    run = Run(folder)
    if not run.finished:
        try:
            train_recipe(recipe, folder, resume=True, progress=SilentProgress())
        except Failed:
            return None
    loss = run.result()["final"]["loss"]
    return float(loss) if isinstance(loss, float) and math.isfinite(loss) else None


def tuned(out: Path, data: Path) -> dict[str, Any]:
    """The rate chosen for each optimizer at batch 16, the best rate, and all that were tried."""
    found = {}
    for optimizer, rates in RATES.items():
        tried = {}
        for lr in rates:
            recipe = recipe_of(optimizer, lr, REFERENCE, TUNING_SEED, data)
            tried[lr] = final_loss(recipe, out / f"{optimizer}-tuning-{lr:g}")
        known = {lr: loss for lr, loss in tried.items() if loss is not None}
        best = min(known, key=lambda lr: known[lr])
        chosen = min(lr for lr, loss in known.items() if loss <= MARGIN * known[best])
        found[optimizer] = {"lr": chosen, "best": best, "bracketed": rates[0] < best < rates[-1], "tried": tried}
    return found


def cell(optimizer: str, lr: float, rule: str, batch: int, seed: int, out: Path, data: Path) -> dict[str, Any]:
    """One run by a rule; with beta1 kept where the rule ends."""
    kept = False
    changes = [f"reference.rule={rule}"] if batch != REFERENCE else []
    recipe = recipe_of(optimizer, lr, batch, seed, data, *changes)
    folder = out / f"{optimizer}-{rule if batch != REFERENCE else 'reference'}-b{batch}-s{seed}"
    try:
        loss = final_loss(recipe, folder)
    except InputError as error:
        if "beta1" not in str(error):
            raise
        kept = True
        loss = final_loss(change(recipe, ["reference.beta1_rule=kept"]), folder)
    settings = Run(folder).result().get("hyperparameters", {}) if Run(folder).finished else {}
    print(f"{optimizer} {rule} batch {batch} seed {seed}: {loss}", flush=True)
    return {
        "optimizer": optimizer, "rule": rule, "batch": batch, "factor": batch / REFERENCE, "seed": seed, "loss": loss,
        "beta1_kept": kept, "hyperparameters": settings,
    }  # fmt: skip


def excesses(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The mean excess over the reference, seed by seed, of every optimizer, rule and batch; None if a run was lost."""
    references = {(row["optimizer"], row["seed"]): row["loss"] for row in rows if row["batch"] == REFERENCE}
    found = []
    for key in dict.fromkeys(
        (row["optimizer"], row["rule"], row["batch"]) for row in rows if row["batch"] != REFERENCE
    ):
        mine = [row for row in rows if (row["optimizer"], row["rule"], row["batch"]) == key]
        gaps = [
            None if row["loss"] is None else row["loss"] - references[row["optimizer"], row["seed"]] for row in mine
        ]
        known = [gap for gap in gaps if gap is not None]
        found.append(
            {
                "optimizer": key[0], "rule": key[1], "batch": key[2], "seeds": len(mine),
                "lost": len(gaps) - len(known),
                "excess": statistics.fmean(known) if len(known) == len(gaps) else None,
                "each": gaps, "beta1_kept": any(row["beta1_kept"] for row in mine),
            }
        )  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/scaling-rules"))
    arguments = parser.parse_args()
    data = arguments.out / "data"
    if not data.exists():
        prepare_builtin_text(data, "characters")
    tuning = tuned(arguments.out, data)
    print(json.dumps(tuning), flush=True)
    rows: list[dict[str, Any]] = []
    for batch in (REFERENCE, *BATCHES):
        for seed in arguments.seeds:
            for optimizer in RATES:
                for rule in RULES if batch != REFERENCE else RULES[:1]:
                    rows.append(
                        cell(optimizer, tuning[optimizer]["lr"], rule, batch, seed, arguments.out, data)
                    )  # fmt: skip
            found = {
                "environment": describe_environment(), "examples": NUM_EXAMPLES, "tuning": tuning, "rows": rows,
                "context_free_loss": Run(arguments.out / "lamb-reference-b16-s0").result()["context_free_loss"],
            }  # fmt: skip
            write_json(RESULTS, {**found, "excesses": excesses(rows)})


if __name__ == "__main__":
    main()
