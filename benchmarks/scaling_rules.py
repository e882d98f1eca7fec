"""Which rule carries a tuned run furthest, to larger and to smaller batches, and which does harm?

    python benchmarks/scaling_rules.py [--seeds 0 1 2] [--out FOLDER]

The GPT on characters of `anybatch demo`, carried by every preset of `Reference`, nothing tuned at the other batches:

- up, from the demo's own reference: batch 2 over 32,768 windows, to 8 and 32;
- up and down, from batch 16 over 16,384 windows, to 1, 4, 64 and 256. Its learning rates are tuned here: five for each
  optimizer, the best bracketed on both sides; chosen is the lowest whose loss is within 0.5 % of the best.

If `sde` ends because beta1 would leave [0, 1), beta1 is kept, and the row says so. Runs that are in --out are not run
again. At 32 from 2, `sde` and `half-life` also run with the warm-up of `sqrt`, which tells their moments from their
short warm-up. Writes benchmarks/results/scaling-rules.json: the tuning, and a row a run with the share of the
reference's gain over the frequencies of characters that the run of the same seed kept.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anybatch.environment import describe_environment
from anybatch.errors import Failed, InputError
from anybatch.files import write_json
from anybatch.numbers import finite
from anybatch.progress import SilentProgress
from anybatch.recipes import Recipe, change, find_recipe, train_recipe
from anybatch.recipes.builtin_text import prepare_builtin_text
from anybatch.runs import Run


@dataclass(frozen=True)
class Start:
    """Where a tuned run is carried from."""

    batch: int
    num_examples: int
    warmup_steps: int


DEMO = Start(2, 32_768, 64)
MIDDLE = Start(16, 16_384, 32)
# The cheap ones first.
CARRIED = ((MIDDLE, 16), (MIDDLE, 64), (MIDDLE, 256), (MIDDLE, 4), (DEMO, 2), (DEMO, 32), (DEMO, 8), (MIDDLE, 1))
RULES = ("sqrt", "linear", "sde", "half-life")
# At 16 times the demo's batch: is it the moments that do harm, or the warm-up, which both rules keep in examples?
PROBES = {rule: f"{rule}, warm-up in steps" for rule in ("sde", "half-life")}
PROBED = (DEMO, 32)
RECIPES = {"lamb": "gpt-demo", "adamw": "gpt-demo-adamw"}
RATES = {"lamb": (0.01, 0.014, 0.02, 0.028, 0.04), "adamw": (0.002, 0.004, 0.0056, 0.008, 0.016)}
TUNING_SEED = 100
MARGIN = 1.005  # a rate is chosen that leaves a rule room to multiply it
RESULTS = Path(__file__).parent / "results" / "scaling-rules.json"


def recipe_of(start: Start, optimizer: str, lr: float, batch: int, seed: int, data: Path, rule: str = "sqrt") -> Recipe:
    """The demo's recipe at `batch`, by `rule` from `start`."""
    return change(
        find_recipe(RECIPES[optimizer]),
        [
            f"data.path={data}", f"seed={seed}", f"phases.0.batch_size={batch}",
            f"reference.batch_size={start.batch}", f"reference.lr={lr}", f"reference.rule={rule.partition(',')[0]}",
            *(["reference.warmup_rule=steps"] if rule in PROBES.values() else []),
            f"reference.num_examples={start.num_examples}",
            f"reference.warmup_ratio={start.warmup_steps * start.batch / start.num_examples}",
            "engine.noise_every=0", "engine.num_evals=1", "engine.num_trust_ratios=1",
            "engine.checkpoint_every_steps=100000",
        ],
    )  # fmt: skip


def final_loss(recipe: Recipe, folder: Path) -> float | None:
    """The held-out loss at the end; None if the run diverged."""
    run = Run(folder)
    if not run.finished:
        try:
            train_recipe(recipe, folder, resume=True, progress=SilentProgress())
        except Failed:
            return None
    return finite(run.result()["final"]["loss"])


def tuned(optimizer: str, out: Path, data: Path) -> dict[str, Any]:
    """The learning rate chosen at batch 16, the best, and all that were tried."""
    rates = RATES[optimizer]
    tried = {
        lr: final_loss(
            recipe_of(MIDDLE, optimizer, lr, MIDDLE.batch, TUNING_SEED, data), out / f"{optimizer}-tuning-{lr:g}"
        )
        for lr in rates
    }
    known = {lr: loss for lr, loss in tried.items() if loss is not None}
    best = min(known, key=lambda lr: known[lr])
    chosen = min(lr for lr, loss in known.items() if loss <= MARGIN * known[best])
    return {"lr": chosen, "best": best, "bracketed": rates[0] < best < rates[-1], "tried": tried}


def carried(
    start: Start, optimizer: str, lr: float, rule: str, batch: int, seed: int, out: Path, data: Path
) -> dict[str, Any]:
    """One run by a rule; with beta1 kept if the rule ends before `batch`."""
    recipe = recipe_of(start, optimizer, lr, batch, seed, data, rule)
    name = "reference" if batch == start.batch else rule
    folder = out / f"{optimizer}-{name.replace(', ', '-').replace(' ', '-')}-b{batch}-s{seed}"
    try:
        loss = final_loss(recipe, folder)
    except InputError as error:
        if "beta1" not in str(error):
            raise
        loss = final_loss(change(recipe, ["reference.beta1_rule=kept"]), folder)
    run = Run(folder)
    # A run that an earlier call finished raises nothing: its recipe says whether beta1 was kept.
    kept = run.recipe()["reference"]["beta1_rule"] == "kept"
    result = run.result() if run.finished else {}
    print(f"{optimizer} {name} batch {batch} seed {seed}: {loss}", flush=True)
    return {
        "reference_batch": start.batch, "optimizer": optimizer, "rule": rule, "batch": batch,
        "factor": batch / start.batch, "seed": seed, "loss": loss, "num_steps": result.get("num_steps"),
        "beta1_kept": kept, "hyperparameters": result.get("hyperparameters", {}),
        "context_free_loss": result.get("context_free_loss"),
    }  # fmt: skip


def with_kept(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row and the share of its reference's gain that it kept; None for a run that diverged."""
    references = {
        (row["reference_batch"], row["optimizer"], row["seed"]): row for row in rows if row["factor"] == 1
    }  # fmt: skip
    found = []
    for row in rows:
        reference = references[row["reference_batch"], row["optimizer"], row["seed"]]
        frequencies = reference["context_free_loss"]
        gain = None if row["loss"] is None else (frequencies - row["loss"]) / (frequencies - reference["loss"])
        found.append({**row, "kept": gain})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/scaling-rules"))
    arguments = parser.parse_args()
    out, data = arguments.out, arguments.out / "data"
    if not data.exists():
        prepare_builtin_text(data, "characters")
    tuning = {optimizer: tuned(optimizer, out, data) for optimizer in RECIPES}
    print(json.dumps(tuning), flush=True)
    rates = {
        MIDDLE: {optimizer: tuning[optimizer]["lr"] for optimizer in RECIPES},
        DEMO: {optimizer: find_recipe(name).reference.lr for optimizer, name in RECIPES.items()},
    }
    rows: list[dict[str, Any]] = []
    for start, batch in CARRIED:
        for seed in arguments.seeds:
            for optimizer in RECIPES:
                probes = PROBES.values() if (start, batch) == PROBED else ()
                for rule in (*RULES, *probes) if batch != start.batch else RULES[:1]:
                    lr = rates[start][optimizer]
                    rows.append(carried(start, optimizer, lr, rule, batch, seed, out, data))
            found = {"environment": describe_environment(), "tuning": tuning, "rows": with_kept(rows)}
            write_json(RESULTS, found)


if __name__ == "__main__":
    main()
