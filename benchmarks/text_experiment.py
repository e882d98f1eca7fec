"""Does untuned LAMB keep quality at larger batches? Pretraining at b, 4b, 16b and 64b, then SQuAD F1.

    python benchmarks/text_experiment.py SHARDS --questions train.json --dev dev.json [--seeds 0 1] [--out DIR]

First each optimizer's rate is tuned at batch b, on a grid of the same size and runs of the same length. The best one is
the reference, from which the rules give rate and warm-up at every larger batch; nothing is tuned there, and the number
of examples is the same everywhere. Each pretrained model of the first seed is then fine-tuned, all in the same way, and
scored on --dev by the official rules; so is a model that was never trained, which is what F1 is to be held against.

What is done is not done again: after a kill the same command goes on. Writes benchmarks/results/text-experiment.json,
and docs/images/text-experiment.svg from it.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

from anybatch.environment import describe_environment
from anybatch.files import write_json, write_text
from anybatch.recipes import change, evaluate_run, find_recipe, train_recipe
from anybatch.report.document import standalone
from anybatch.report.layout import Grid, write_title
from anybatch.report.svg import ACCENTS, INK, MARKERS, MUTED, WIDE, Frame, accent, canvas, panel, render
from anybatch.runs import Run

FACTORS = (1, 4, 16, 64)
GRID = {
    "lamb": (0.00175, 0.0035, 0.007, 0.014, 0.028),
    "lars": (0.00175, 0.0035, 0.007, 0.014, 0.028),
    "adamw": (0.00025, 0.0005, 0.001, 0.002, 0.004),
}
# The paper's warm-up: 1/320 of the steps at the reference batch, 64 times that at the largest.
WARMUP_RATIO = 1 / 320
PRETRAINING = [
    f"reference.warmup_ratio={WARMUP_RATIO}", "phases.0.sequence_length=64", "data.objective=full_sentences",
    "data.num_held_out=1024", "engine.num_evals=4",
]  # fmt: skip
QUESTIONS = [
    "phases.0.sequence_length=128", "phases.0.batch_size=16", "reference.batch_size=16", "reference.num_epochs=null",
    "data.stride=96", "data.held_out_every=36", "engine.num_evals=1",
]  # fmt: skip
RESULTS = Path(__file__).parent / "results" / "text-experiment.json"
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "text-experiment.svg"
NAMES = {"lamb": "LAMB", "lars": "LARS", "adamw": "AdamW"}


class Experiment:
    """The runs, each in a folder of its own below `arguments.out`."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.out: Path = arguments.out

    def pretrain(self, name: str, optimizer: str, batch_size: int, lr: float, num_examples: int, seed: int) -> Any:
        """The result of one run; `lr` is the reference's, at batch b."""
        b = self.arguments.batch_size
        settings = [
            f"data.path={self.arguments.shards}", f"optimizer.name={optimizer}", f"seed={seed}",
            f"reference.batch_size={b}", f"reference.lr={lr}", f"reference.num_examples={num_examples}",
            f"phases.0.batch_size={batch_size}", *PRETRAINING,
        ]  # fmt: skip
        return train_recipe(change(find_recipe(self.arguments.recipe), settings), self.out / name, resume=True)

    def answer(self, name: str) -> dict[str, float]:
        """Exact match and F1 on --dev after fine-tuning the pretrained run `name`."""
        folder = self.out / f"{name}-answers"
        asked = [
            f"data.path={self.arguments.questions}", f"model.path={self.out / name}", *QUESTIONS,
            f"reference.lr={self.arguments.question_lr}", f"reference.num_examples={self.arguments.question_examples}",
        ]  # fmt: skip
        train_recipe(change(find_recipe("squad"), asked), folder, resume=True)
        return once(folder / "dev.json", lambda: dict(evaluate_run(folder, self.arguments.dev)))

    def tune(self, optimizer: str) -> list[dict[str, Any]]:
        """The held-out loss of every rate of the grid at batch b, in runs of --tuning-examples."""
        rows = []
        for lr in GRID[optimizer]:
            name = f"tune-{optimizer}-{lr}"
            result = self.pretrain(
                name, optimizer, self.arguments.batch_size, lr, self.arguments.tuning_examples, seed=100
            )
            rows.append({"optimizer": optimizer, "lr": lr, "held_out_loss": result["final"]["loss"]})
            print(rows[-1], flush=True)
        return rows

    def cell(self, optimizer: str, lr: float, factor: int, seed: int) -> dict[str, Any]:
        """One pretraining run; of the first seed also the answers."""
        size = self.arguments.batch_size * factor
        name = f"{optimizer}-b{size}-s{seed}"
        result = self.pretrain(name, optimizer, size, lr, self.arguments.examples, seed)
        kept = ("lr", "num_steps", "warmup_steps", "final", "context_free_loss", "wall_s")
        curve = [(event["examples"], event["loss"]) for event in Run(self.out / name).metrics("eval")]
        row = {"optimizer": optimizer, "factor": factor, "batch_size": size, "seed": seed, "reference_lr": lr}
        row |= {key: result[key] for key in kept} | {"held_out_curve": curve}
        if seed == self.arguments.seeds[0]:
            row["squad"] = self.answer(name)
        print({key: row[key] for key in row if key != "held_out_curve"}, flush=True)
        return row

    def untrained(self) -> dict[str, float]:
        """The answers of a model whose only step of pretraining had rate 0."""
        settings = ["optimizer.lr=0", "reference.num_examples=16", "reference.batch_size=16", "phases.0.batch_size=16"]
        settings += [f"data.path={self.arguments.shards}", *PRETRAINING]
        train_recipe(change(find_recipe(self.arguments.recipe), settings), self.out / "untrained", resume=True)
        return self.answer("untrained")


def once(path: Path, make: Callable[[], Any]) -> Any:
    """What `make` gives, kept in `path`."""
    if not path.exists():
        write_json(path, make())
    return json.loads(path.read_text())


def draw(found: dict[str, Any]) -> str:
    """Held-out loss and F1 against the batch, means over the seeds, as a file of SVG."""
    frame = Frame(
        WIDE,
        "text-experiment",
        "Held-out loss and F1 against the batch",
        "Dotted: word frequencies alone; F1 without pretraining. The bars reach from the best seed to the worst.",
    )
    panels = (
        ("held-out loss", lambda row: row["final"]["loss"], found["cells"][0]["context_free_loss"]),
        ("F1 on dev.json", lambda row: row["squad"]["f1"] if "squad" in row else None, found["untrained"]["f1"]),
    )
    grid = Grid(frame.width, 2, 1, 300, left=52, right=80)
    batches = sorted({row["batch_size"] for row in found["cells"]})
    with canvas(frame.width, grid.height) as figure:
        for number, (title, value_of, floor) in enumerate(panels):
            axes = panel(figure, *grid.box(number))
            axes.axhline(floor, color=MUTED, linestyle=(0, (1, 3)))
            for optimizer, name in NAMES.items():
                color = ACCENTS[accent(optimizer, list(NAMES))]
                values = [
                    [value for row in found["cells"] if (row["optimizer"], row["batch_size"]) == (optimizer, batch)
                     and (value := value_of(row)) is not None]
                    for batch in batches
                ]  # fmt: skip
                middle = [mean(each) for each in values]
                axes.plot(batches, middle, color=color, marker=MARKERS[accent(optimizer, list(NAMES))], label=name)
                axes.vlines(batches, [min(each) for each in values], [max(each) for each in values], color=color)
            axes.set_xscale("log", base=4)
            axes.set_xticks(batches, [f"{batch}" for batch in batches])
            axes.set_xlabel("batch")
            write_title(axes, title, INK)
            if number:
                axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), labelcolor=INK)
        return standalone(render(figure, frame))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--dev", type=Path, required=True)
    parser.add_argument("--recipe", default="bert-tiny")
    parser.add_argument("--batch-size", type=int, default=4, help="b")
    parser.add_argument("--examples", type=int, default=16_000)
    parser.add_argument("--tuning-examples", type=int, default=6_400)
    parser.add_argument("--question-examples", type=int, default=8_000)
    parser.add_argument("--question-lr", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--out", type=Path, default=Path("text-experiment"))
    arguments = parser.parse_args()
    experiment = Experiment(arguments)
    tuning = [row for optimizer in GRID for row in experiment.tune(optimizer)]
    best = {
        optimizer: min((row for row in tuning if row["optimizer"] == optimizer), key=lambda row: row["held_out_loss"])
        for optimizer in GRID
    }
    cells = [
        experiment.cell(optimizer, best[optimizer]["lr"], factor, seed)
        for seed in arguments.seeds
        for optimizer in GRID
        for factor in FACTORS
    ]
    settings = {name: value for name, value in vars(arguments).items() if not isinstance(value, Path)}
    found = {
        "settings": {**settings, "pretraining": PRETRAINING, "fine_tuning": QUESTIONS},
        "tuning": tuning,
        "cells": cells,
        "untrained": experiment.untrained(),
        "environment": {**describe_environment(), "command": ["text_experiment.py"]},
    }
    write_json(RESULTS, found)
    write_text(FIGURE, draw(found))
    for optimizer in GRID:
        for factor in FACTORS:
            mine = [row for row in cells if (row["optimizer"], row["factor"]) == (optimizer, factor)]
            print(f"{optimizer:6} x{factor:<3} held-out loss {mean(row['final']['loss'] for row in mine):.3f}")


if __name__ == "__main__":
    main()
