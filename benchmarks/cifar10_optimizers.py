"""CIFAR-10 on a CPU: six optimizers at batch 512, as in the LAMB paper's appendix, and three at other batches.

    python benchmarks/cifar10_optimizers.py DATA --out DIR [--most N]

DATA is CIFAR-10 as `data.path` takes it. The network is DavidNet with an eighth of its width (8 channels, 104,000
parameters), in bfloat16 on one thread, on all 50,000 training images with the recipe's crops and flips:

1. each optimizer at batch 512 for 2 epochs, at three rates a factor of about three apart, seed 0;
2. LAMB, LARS and momentum at four other batch sizes, from their best rates at 512 by their rules (square-root for LAMB,
   linear for the two others, as in You et al. 2017 and Goyal et al. 2017) and linear-epoch warm-up;
3. each optimizer at its best rate with further seeds;
4. the second part again, and batch 512, for 6 epochs.

The best rate is that of the highest top-1 on the first 5,000 test images; what is reported is top-1 on the other 5,000,
which chose nothing. A run that is in DIR already is not repeated, so that the whole can be done in parts: `--most` new
runs at a time. Writes benchmarks/results/cifar10-optimizers.json and docs/images/cifar10-optimizers.svg from the runs
that there are.
"""

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anybatch.environment import describe_environment
from anybatch.files import read_object, write_json, write_text
from anybatch.models.classifier import ImageClassifier
from anybatch.recipes import ImageRecipe, change, find_recipe, from_json, train_recipe, with_batch_size
from anybatch.recipes.images import Images
from anybatch.report.document import standalone
from anybatch.report.layout import Grid, write_title
from anybatch.report.svg import ACCENTS, INK, MARKERS, WIDE, Frame, accent, canvas, panel, render, spread
from anybatch.runs import Run

BATCH, EPOCHS, MORE_EPOCHS, SEEDS = 512, 2, 6, (1, 2)
SCALED_BATCHES = (128, 2048, 8192, 16_384)
SCALING_RULE = {"lamb": "sqrt", "lars": "linear", "momentum": "linear"}
# Around what each is commonly used with.
RATES = {
    "adagrad": (0.01, 0.03, 0.1),
    "adam": (0.003, 0.01, 0.03),
    "adamw": (0.003, 0.01, 0.03),
    "momentum": (0.1, 0.3, 1.0),
    "lamb": (0.01, 0.03, 0.1),
    "lars": (0.01, 0.03, 0.1),
}
# L2 that goes through Adam's and AdaGrad's moments is another thing than decay; both then go without.
WEIGHT_DECAY = {"adagrad": 0.0, "adam": 0.0, "adamw": 0.01, "momentum": 5e-4, "lars": 5e-4, "lamb": 0.01}
TUNING = 5_000
RESULTS = Path(__file__).parent / "results" / "cifar10-optimizers.json"
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "cifar10-optimizers.svg"


@dataclass(frozen=True)
class Trial:
    """One run: `lr` is the rate at batch 512, from which that of `batch_size` follows."""

    part: str
    optimizer: str
    lr: float
    batch_size: int
    epochs: int
    seed: int


Rows = dict[Trial, dict[str, Any]]


def planned(rows: Rows) -> Iterator[Trial]:
    """All trials in order; those that need a best rate come once it is known in `rows`."""
    for name, rates in RATES.items():
        for lr in rates:
            yield Trial("grid", name, lr, BATCH, EPOCHS, 0)
    best = {name: best_rate(name, rows) for name in RATES}
    for name in SCALING_RULE:
        for batch in SCALED_BATCHES:
            yield Trial("scaling", name, best[name], batch, EPOCHS, 0)
    for seed in SEEDS:
        for name, lr in best.items():
            yield Trial("seeds", name, lr, BATCH, EPOCHS, seed)
    for name in SCALING_RULE:
        for batch in sorted((BATCH, *SCALED_BATCHES)):
            yield Trial("longer", name, best[name], batch, MORE_EPOCHS, 0)


def best_rate(name: str, rows: Rows) -> float:
    grid = [
        (row["top1_tuning"], trial.lr) for trial, row in rows.items() if (trial.part, trial.optimizer) == ("grid", name)
    ]
    return max(grid)[1]


def recipe_of(trial: Trial, data: Path) -> ImageRecipe:
    recipe = change(
        find_recipe("cifar10-davidnet"),
        [
            f"optimizer.name={trial.optimizer}",
            f"optimizer.weight_decay={WEIGHT_DECAY[trial.optimizer]}",
            f"reference.lr={trial.lr}",
            f"reference.num_epochs={trial.epochs}",
            f"reference.rule={SCALING_RULE.get(trial.optimizer, 'sqrt')}",
            "max_grad_norm=null",
            "model.width=8",
            "model.batch_norm_group=128",
            # Holes are against overfitting, for which these runs are too short.
            "data.cutout=0",
            "engine.precision=bf16",
            "engine.num_evals=1",
            f"data.path={data}",
            f"seed={trial.seed}",
        ],
    )
    scaled = with_batch_size(recipe, trial.batch_size)
    assert isinstance(scaled, ImageRecipe)
    return scaled


def kept_row(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def run_trial(trial: Trial, data: Path, folder: Path) -> dict[str, Any]:
    """What the run says of itself, and top-1 on either half of the test images; kept in DIR beside the run."""
    kept = kept_row(folder)
    if kept.exists():
        return read_object(kept)
    result = train_recipe(recipe_of(trial, data), folder, resume=True)
    run = Run(folder)
    recipe = from_json(run.recipe())
    assert isinstance(recipe, ImageRecipe)
    model, source = ImageClassifier.load(run.model).eval(), Images(recipe, run).held_out_source
    hits: list[bool] = []
    with torch.no_grad():
        for start in range(0, source.num_examples, 500):
            examples = np.arange(start, start + 500)
            inputs = source.batch(np.zeros_like(examples), examples).inputs
            hits += (model.logits(inputs["images"]).argmax(1) == inputs["labels"]).tolist()
    row = {
        "top1_tuning": float(np.mean(hits[:TUNING])),
        "top1": float(np.mean(hits[TUNING:])),
        "loss": result["final"]["loss"],
        "lr_at_batch": result["lr"],
        "num_steps": result["num_steps"],
        "warmup_steps": result["warmup_steps"],
        "train_s": result["train_s"],
    }
    write_json(kept, row)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--most", type=int, default=1000, help="new runs at most")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(exist_ok=True)
    rows: Rows = {}
    left = arguments.most
    for trial in planned(rows):
        folder = arguments.out / "-".join(str(value) for value in asdict(trial).values())
        if not kept_row(folder).exists():
            if not left:
                break
            left -= 1
        rows[trial] = run_trial(trial, arguments.data, folder)
        row = rows[trial]
        print(
            f"{trial.part:7} {trial.optimizer:8} {trial.lr:<5} batch {trial.batch_size:<5} seed {trial.seed}: "
            f"{trial.epochs} epochs: top-1 {100 * row['top1']:.2f} %, {row['num_steps']} steps, {row['train_s']:.0f} s",
            flush=True,
        )
    environment = {**describe_environment(), "threads": 1, "command": ["cifar10_optimizers.py"]}
    write_json(RESULTS, {"environment": environment, "rows": [{**asdict(trial), **row} for trial, row in rows.items()]})
    write_text(FIGURE, standalone(draw(rows)))


def draw(rows: Rows) -> str:
    """An <svg>: at batch 512 every run of every optimizer over its rate, and LAMB over the batch size."""
    title = "CIFAR-10: optimizers at batch 512, and three of them at other batches, untuned"
    frame = Frame(WIDE, "cifar10", title, "Top-1 in per cent on 5,000 test images that chose no rate.")
    grid = Grid(WIDE, 2, 1, 280, left=52, right=92, bottom=52)
    with canvas(WIDE, grid.height) as drawing:
        rates, batches = (panel(drawing, *grid.box(place)) for place in (0, 1))
        rates.set_xscale("log")
        ends: dict[str, tuple[float, float]] = {}
        for name in RATES:
            number = accent(name, list(RATES))
            color, marker = ACCENTS[number], MARKERS[number]
            mine = {trial: 100 * row["top1"] for trial, row in rows.items() if trial.optimizer == name}
            tried = [(trial.lr, top1) for trial, top1 in mine.items() if trial.part == "grid"]
            again = [(trial.lr, top1) for trial, top1 in mine.items() if trial.part == "seeds"]
            rates.plot(*zip(*tried, strict=True), color=color, marker=marker, markersize=6)
            if again:
                rates.plot(*zip(*again, strict=True), color=color, marker=marker, markersize=4, linestyle="none")
            ends[name] = tried[-1]
        heights = [float(rates.transData.transform(end)[1]) for end in ends.values()]
        for (name, end), height, free in zip(ends.items(), heights, spread(heights, 15, 0, 1e6), strict=True):
            rates.annotate(
                name, end, (8, free - height), textcoords="offset points", color=ACCENTS[accent(name, list(RATES))],
                weight="bold", va="center", annotation_clip=False,
            )  # fmt: skip
        at = sorted((BATCH, *SCALED_BATCHES))
        for name in SCALING_RULE:
            number, best = accent(name, list(RATES)), best_rate(name, rows)
            for epochs, line in ((EPOCHS, "--"), (MORE_EPOCHS, "-")):
                scaled = sorted(
                    (trial.batch_size, 100 * row["top1"])
                    for trial, row in rows.items()
                    if (trial.optimizer, trial.lr, trial.epochs, trial.seed) == (name, best, epochs, 0)
                )
                batches.plot(
                    *zip(*scaled, strict=True),
                    color=ACCENTS[number],
                    marker=MARKERS[number],
                    markersize=6,
                    linestyle=line,
                )
        batches.set_ylim(0, 90)
        batches.set_xscale("log")
        for axes, label, ticks in (
            (rates, "rate at batch 512", (0.003, 0.01, 0.03, 0.1, 0.3, 1)),
            (batches, "batch", at),
        ):
            axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
            axes.minorticks_off()
            axes.set_xlabel(label, labelpad=4)
        write_title(rates, "Top-1 at batch 512, %", INK)
        write_title(batches, "Untuned from 512: 2 epochs (dashes) and 6, top-1, %", INK)
        return render(drawing, frame)


if __name__ == "__main__":
    main()
