"""A study whose answer is known, as a user would write one: curves by formula, with noise keyed by the trial.

PLANTED_BLOCK in the environment names a trial in which the worker waits to be killed.
"""

import math
import os
import random
import time
from pathlib import Path

from anybatch.engine import Progress
from anybatch.recipes import Recipe, find_recipe
from anybatch.study import Entrant, Outcome, Study, Trial

E_MIN = {"LAMB": 4000.0, "AdamW": 5000.0}
B_CRIT = {"LAMB": 400.0, "AdamW": 100.0}
BEST_RATE = 0.02
DIVERGES_ABOVE = 0.07
NUM_EXAMPLES = 60_000


def run(study: Study, trial: Trial, recipe: Recipe, out: Path, progress: Progress) -> Outcome:
    """Loss 4 * 2^(-examples / E), so that 2 is reached after E = E_min (1 + B/B_crit) examples at the best rate."""
    with open(out / "ran.txt", "a", encoding="utf-8") as file:
        file.write(f"{trial.key}\n")
    if os.environ.get("PLANTED_BLOCK") == trial.key:
        (out / "blocked").touch()
        time.sleep(600)
    time.sleep(float(os.environ.get("PLANTED_SLEEP_S", "0")))
    name, batch, lr = trial.entrant.name, trial.batch_size, recipe.optimizer.lr
    assert lr is not None
    if lr > DIVERGES_ABOVE:
        return Outcome(((0, 0, 4.0), (10, 10 * batch, None)), diverged=True, num_steps=10)
    noise = random.Random(trial.key).gauss(0, 0.03) + 0.2 * math.log(lr / BEST_RATE) ** 2
    needed = E_MIN[name] * (1 + batch / B_CRIT[name]) * math.exp(noise)
    steps = [round(NUM_EXAMPLES * k / 80 / batch) for k in range(81)]
    curve = tuple((t, t * batch, 4 * 2 ** (-t * batch / needed)) for t in steps)
    layers = {f"encoder.layer.{layer}.output.dense.weight": 1.5 + layer for layer in range(2)}
    ratios = tuple((t, layers) for t in steps[1::20]) if name == "LAMB" and trial.part == "reported" else ()
    return Outcome(curve, False, steps[-1], ratios)


def study() -> Study:
    bert = find_recipe("bert-demo")
    return Study(
        name="planted",
        question="Does the study find what was planted?",
        entrants=tuple(Entrant(name, bert, {"optimizer.lr": (0.01, 0.1)}) for name in E_MIN),
        batch_sizes=(16, 64, 256),
        protocol="grid",
        target=2.0,
        run=run,
    )
