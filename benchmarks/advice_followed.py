"""Is the advice worth following? `anybatch advise`, and then the runs that it speaks of.

    python benchmarks/advice_followed.py RECIPE TARGET [--seeds 3] [--set FIELD=VALUE] [-o FILE.json]

For every seed: the noise scale is measured at the reference batch, and three runs follow with the rules' own rates: a
quarter of the batch that is called nearly free, with the reference's examples; that batch, with 1.3 times as many; and
16 times it, with four times as many. Told are where each ends, which is what a run is for, and after how many examples
it passes TARGET on its way, on the line between two evaluations.
"""

import argparse
import json
import math
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from anybatch.comparison.rows import crossing
from anybatch.comparison.statistics import mean_interval
from anybatch.environment import describe_environment
from anybatch.progress import SilentProgress
from anybatch.recipes import Recipe, change, find_recipe, train_recipe, with_batch_size
from anybatch.runs import Run
from anybatch.study.advise import advise
from anybatch.study.execution import with_shared_text
from anybatch.study.measuring import Trainer

_EVALS = 80
_OTHERS = ("nearly free", "16 times")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("target", type=float, help="the held-out loss that examples are counted to")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--set", dest="assignments", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("-o", "--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory(prefix="anybatch-followed-") as scratch:
        recipe = with_shared_text(change(find_recipe(arguments.recipe), arguments.assignments), Path(scratch))
        seeds = []
        for seed in range(arguments.seeds):
            seeds.append(follow(change(recipe, [f"seed={seed}"]), arguments.target, arguments.steps, Path(scratch)))
            print(json.dumps(seeds[-1]), flush=True)
    found = {
        "recipe": arguments.recipe,
        "changes": arguments.assignments,
        "target": arguments.target,
        "advise_steps": arguments.steps,
        "environment": describe_environment(),
        "seeds": seeds,
        "loss_above_the_small_batch": {name: _above(seeds, name) for name in _OTHERS},
        "examples_over_the_small_batch": {name: _ratio(seeds, name) for name in _OTHERS},
    }
    print(json.dumps({name: values for name, values in found.items() if name.endswith("small_batch")}, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def follow(recipe: Recipe, target: float, steps: int, scratch: Path) -> dict[str, Any]:
    """One seed's advice and its three runs."""
    advice = advise(recipe, steps, Trainer(SilentProgress()))
    free = advice["nearly_free_batch"]
    examples = recipe.reference.num_examples
    assert examples is not None, "give the length in examples: --set reference.num_examples=N"
    plan = {"small": (max(2, free // 4), 1.0), "nearly free": (free, 1.3), "16 times": (16 * free, 4.0)}
    runs = {}
    for name, (batch, factor) in plan.items():
        settings = [f"reference.num_examples={round(factor * examples)}", f"engine.num_evals={round(factor * _EVALS)}"]
        folder = scratch / f"{recipe.seed}-{name}"
        result = train_recipe(change(with_batch_size(recipe, batch), settings), folder, progress=SilentProgress())
        curve = [(event["step"], event["examples"], event["loss"]) for event in Run(folder).metrics("eval")]
        reached = crossing(curve, target, higher=False)
        runs[name] = {
            "batch_size": batch,
            "lr": result["lr"],
            "num_examples": result["num_examples"],
            "final_loss": result["final"]["loss"],
            "examples_to_target": None if reached is None else reached[1],
        }
    noise, hoped = advice["noise_scale"], advice["preconditioned_noise_scale"]
    return {
        "seed": recipe.seed,
        "noise_scale": [noise["value"], noise["low"], noise["high"]],
        "preconditioned": hoped and hoped["value"],
        "nearly_free": free,
        "runs": runs,
    }


def _above(seeds: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """How much higher the final loss is, seed by seed, with the interval of the mean."""
    each = [seed["runs"][name]["final_loss"] - seed["runs"]["small"]["final_loss"] for seed in seeds]
    return {**asdict(mean_interval(each)), "each": each}


def _ratio(seeds: list[dict[str, Any]], name: str) -> dict[str, Any] | None:
    """The geometric mean over seeds, with its interval; None where a run has not arrived."""
    pairs = [[seed["runs"][one]["examples_to_target"] for one in (name, "small")] for seed in seeds]
    if any(value is None for pair in pairs for value in pair):
        return None
    found = mean_interval([math.log(mine / small) for mine, small in pairs])
    ends = {key: None if value is None else math.exp(value) for key, value in asdict(found).items() if key != "count"}
    return {**ends, "each": [round(mine / small, 3) for mine, small in pairs]}


if __name__ == "__main__":
    main()
