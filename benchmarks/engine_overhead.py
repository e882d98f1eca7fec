"""What the engine costs beside a plain loop over the same model, optimizer, schedule and data, in one interleaved run.

    python benchmarks/engine_overhead.py [--steps 1500] [--set FIELD=VALUE ...]

Two recipes: a GPT whose step takes milliseconds (the demo's, batch 2), and a small BERT whose step takes some 200 ms.
The engine trains with everything on: records, TensorBoard, spikes, checkpoints, evaluations, a thread that reads
ahead. After every block of its steps a plain loop takes as many: read, forward, backward, clip, step, schedule, loss.
Both see the same load of the machine. Writes benchmarks/results/engine-overhead.json: medians over blocks of
milliseconds a step and of the ratio, on the clock and of the process's CPU time.
"""

import argparse
import copy
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from anybatch import engine
from anybatch.environment import describe_environment
from anybatch.files import write_json
from anybatch.recipes import change, find_recipe
from anybatch.recipes.builtin_text import prepare_builtin_text
from anybatch.recipes.optimizers import build_optimizer
from anybatch.recipes.recipe import Recipe
from anybatch.recipes.tasks import build
from anybatch.runs import Run

SETTINGS = {
    "gpt2-tiny": [
        "model.hidden_size=64", "phases.0.sequence_length=32", "reference.batch_size=2", "phases.0.batch_size=2",
        "data.tokenizer=characters",
    ],
    "bert-tiny": ["model.hidden_size=128", "model.num_heads=2", "phases.0.batch_size=32", "engine.micro_batch_size=16"],
}  # fmt: skip
# Blocks of about the same time.
BLOCKS = {"gpt2-tiny": 50, "bert-tiny": 2}
SHORTER = {"gpt2-tiny": 1, "bert-tiny": 10}
RESULTS = Path(__file__).parent / "results" / "engine-overhead.json"

Clocks = tuple[float, float]


def clocks() -> Clocks:
    """Seconds on the clock, and of all threads' CPU time."""
    return time.perf_counter(), time.process_time()


class PlainLoop:
    """What one writes by hand, from a copy of the job's model."""

    def __init__(self, job: engine.Job, recipe: Recipe) -> None:
        self.phase, self.max_grad_norm = job.phases[0], job.max_grad_norm
        self.model = copy.deepcopy(job.model)
        self.optimizer = build_optimizer(self.model, recipe.optimizer, self.phase.hyperparameters)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self.phase.schedule)
        self.losses: list[float] = []

    def step(self) -> None:
        size = self.phase.global_batch_size
        batch = self.phase.examples.read(len(self.losses) * size, size)
        sums, _ = self.model(**batch.inputs)
        loss = torch.stack([value / batch.num_targets[name] for name, value in sums.items()]).sum()
        loss.backward()
        if self.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        self.losses.append(loss.item())


class Interleaved:
    """Calls the optimizer's step; after each block of them the plain loop's turn comes, and both are timed."""

    def __init__(self, job: engine.Job, recipe: Recipe, block: int) -> None:
        self.step, self.block = job.optimizer.step, block
        self.plain = PlainLoop(job, recipe)
        self.taken = 0
        self.began: Clocks = clocks()
        self.times: list[tuple[Clocks, Clocks]] = []

    def __call__(self) -> None:
        self.step()
        self.taken += 1
        if self.taken % self.block:
            return
        middle = clocks()
        for _ in range(self.block):
            self.plain.step()
        ended = clocks()
        engine_s = tuple(after - before for before, after in zip(self.began, middle, strict=True))
        plain_s = tuple(after - before for before, after in zip(middle, ended, strict=True))
        self.times.append((engine_s, plain_s))  # type: ignore[arg-type]
        self.began = clocks()


def measure(name: str, steps: int, more: list[str], folder: Path) -> dict[str, Any]:
    """One recipe's numbers."""
    num_steps = max(3 * BLOCKS[name], steps // SHORTER[name])
    recipe = change(find_recipe(name), [*SETTINGS[name], "engine.num_evals=1", "data.num_held_out=32", *more])
    examples = num_steps * recipe.phases[0].batch_size
    recipe = change(recipe, [f"reference.num_examples={examples}", f"data.path={folder / name}"])
    prepare_builtin_text(folder / name, "characters" if name == "gpt2-tiny" else "wordpiece")
    run = Run(folder / f"{name}-run")
    run.path.mkdir()
    job = build(recipe, run)
    turns = Interleaved(job, recipe, BLOCKS[name])
    job.optimizer.step = turns  # type: ignore[method-assign, assignment]
    engine.train(job, run)
    records = [event["loss"] for event in run.metrics("train")]
    # Both loops train the same model on the same examples.
    assert abs(records[-1] - turns.plain.losses[-1]) < 0.05, (records[-1], turns.plain.losses[-1])
    blocks = turns.times[1:]  # the first holds the evaluation before the first step
    found: dict[str, Any] = {"steps": num_steps}
    for clock, title in enumerate(("clock", "cpu")):
        both = [(ours[clock], plain[clock]) for ours, plain in blocks]
        found[title] = {
            "engine_ms": round(1e3 * median(ours for ours, _ in both) / turns.block, 3),
            "plain_ms": round(1e3 * median(plain for _, plain in both) / turns.block, 3),
            "ratio": round(median(ours / plain for ours, plain in both), 3),
            "ratio_of_sums": round(sum(ours for ours, _ in both) / sum(plain for _, plain in both), 3),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--recipes", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("-o", "--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = {name: measure(name, asked.steps, asked.set, Path(folder)) for name in asked.recipes}
    for name, row in rows.items():
        print(name, row)
    write_json(asked.out, {"environment": describe_environment(), "rows": rows})


if __name__ == "__main__":
    main()
