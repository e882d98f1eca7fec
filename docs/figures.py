"""Draws the figures of how-it-works.md and results.md:  python docs/figures.py [FOLDER]

The rates and steps are what `Reference` computes, the layers' movements those of a small network that is trained here,
and the shares of what was learned those of the files of results.
"""

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from results import CAMPAIGN, OPTIMIZERS, load, pick, with_kept, with_points
from torch import nn
from torch.nn.functional import cross_entropy

from anybatch import LAMB, Reference, param_groups
from anybatch.report.document import standalone
from anybatch.report.layout import Grid, write_title
from anybatch.report.svg import ACCENTS, INK, MARKERS, MUTED, Frame, canvas, panel, render
from anybatch.scaling import examples_at
from anybatch.scaling.presets import PRESETS

WIDTH = 800
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
BERT = Reference(batch_size=512, lr=5 / 8000, warmup_ratio=1 / 320, num_examples=512_000_000)


def schedules(frame: Frame) -> str:
    """The learning rate over a run at three batches that follow from one."""
    grid = Grid(frame.width, 1, 1, 260, left=60, right=110)
    with canvas(frame.width, grid.height) as figure:
        axes = panel(figure, *grid.box(0))
        for number, batch in enumerate((512, 4096, 32_768)):
            run = BERT.at(batch)
            places = sorted({0, run.warmup_steps, *range(0, run.num_steps, run.num_steps // 200), run.num_steps - 1})
            rates = [run.lr * run.schedule(t) for t in places]
            axes.plot([100 * t / run.num_steps for t in places], rates, color=ACCENTS[number])
            axes.annotate(
                f"{batch:,}: {run.num_steps:,} steps", (100 * run.warmup_ratio, run.lr), (6, 4),
                textcoords="offset points", color=ACCENTS[number], weight="bold",
            )  # fmt: skip
        axes.set_xlabel("% of the examples", color=MUTED)
        axes.set_ylim(0, 0.0056)
        write_title(axes, "Learning rate", INK)
        return render(figure, frame)


def rules(frame: Frame) -> str:
    """What each rule makes of the learning rate, the moments, epsilon and weight decay over the batch."""
    grid = Grid(frame.width, 2, 2, 210, left=44, right=180)
    factors = [2**k for k in range(-6, 7)]
    with canvas(frame.width, grid.height) as figure:
        for place, rule in enumerate(PRESETS):
            axes = panel(figure, *grid.box(place))
            reference = Reference(
                64, lr=1.0, warmup_ratio=0.0, num_examples=64 * 64, betas=(0.9, 0.999), eps=1.0, weight_decay=1.0,
                rule=rule,
            )  # fmt: skip
            runs = {}
            for factor in factors:
                with suppress(ValueError):  # a rule ends
                    runs[factor] = reference.at(64 * factor if factor >= 1 else round(64 * factor))
            multiples = {
                "learning rate": [run.lr for run in runs.values()],
                "1 - β₁": [(1 - run.betas[0]) / 0.1 for run in runs.values()],
                "1 - β₂": [(1 - run.betas[1]) / 0.001 for run in runs.values()],
                "ε": [run.eps for run in runs.values()],
                "weight decay": [run.weight_decay for run in runs.values()],
            }
            lines: dict[float, list[str]] = {}  # what takes the same course is one line
            for name, values in multiples.items():
                lines.setdefault(round(values[-1], 0 if values[-1] > 2 else 2), []).append(name)
            for number, names in enumerate(lines.values()):
                values = multiples[names[0]]
                axes.plot(list(runs), values, color=ACCENTS[number], linewidth=2)
                axes.annotate(
                    ", ".join(names), (max(runs), values[-1]), (6, -4), textcoords="offset points",
                    color=ACCENTS[number],
                )  # fmt: skip
            axes.set_xscale("log", base=2)
            axes.set_yscale("log", base=2)
            axes.set_xticks([1 / 64, 1 / 8, 1, 8, 64], ["1/64", "1/8", "1", "8", "64"])
            axes.set_yticks([1 / 64, 1 / 8, 1, 8, 64], ["1/64", "1/8", "1", "8", "64"])
            axes.set_xlim(1 / 80, 80)
            axes.set_xlabel("batch / reference batch", color=MUTED)
            write_title(axes, rule, INK)
        return render(figure, frame)


def steps(frame: Frame) -> str:
    """McCandlish's law: what a larger batch saves in steps and costs in examples."""
    grid = Grid(frame.width, 2, 1, 240, left=50, right=30)
    shares = [2**k for k in range(-6, 7)]
    with canvas(frame.width, grid.height) as figure:
        for place, (title, values) in enumerate(
            (
                ("Steps, of the fewest possible", [1 + 1 / share for share in shares]),
                (
                    "Examples, of the fewest possible",
                    [examples_at(1.0, 0.0, share, critical_batch=1.0) for share in shares],
                ),
            )
        ):
            axes = panel(figure, *grid.box(place))
            axes.plot(shares, values, color=ACCENTS[place], marker=MARKERS[place])
            axes.plot([1, 1], [1, 2], color=MUTED, linestyle=(0, (4, 3)), linewidth=1.5)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log", base=2)
            axes.set_xticks([1 / 64, 1 / 8, 1, 8, 64], ["1/64", "1/8", "1", "8", "64"])
            axes.set_yticks([1, 2, 4, 16, 64], ["1", "2", "4", "16", "64"])
            axes.set_xlabel("batch / critical batch", color=MUTED)
            write_title(axes, title, ACCENTS[place])
        return render(figure, frame)


def movements(frame: Frame) -> str:
    """How far each weight matrix of a deep network goes in a step, of its norm, under AdamW and under LAMB."""
    grid = Grid(frame.width, 2, 1, 240, left=60, right=30)
    with canvas(frame.width, grid.height) as figure:
        for place, (name, make) in enumerate(
            (
                ("LAMB, rate 0.01", lambda model: LAMB(param_groups(model), lr=0.01)),
                ("AdamW, rate 0.001", lambda model: torch.optim.AdamW(model.parameters(), lr=0.001)),
            )
        ):
            axes = panel(figure, *grid.box(place))
            for number, moved in enumerate(moves(make)):
                axes.plot(range(1, len(moved) + 1), moved, color=ACCENTS[number % 6], linewidth=1.5)
            axes.set_yscale("log")
            axes.set_yticks([0.001, 0.01, 0.1], ["0.1 %", "1 %", "10 %"])
            axes.set_ylim(0.0004, 0.3)
            axes.set_xlabel("step", color=MUTED)
            write_title(axes, name, INK)
        return render(figure, frame)


def moves(make: Callable[[nn.Module], torch.optim.Optimizer], num_steps: int = 60) -> list[list[float]]:
    """|x after - x before| / |x before| of five weight matrices, whose initial norms differ, in each step."""
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 10))
    model = nn.Sequential(
        *(layer for width in (32, 64, 64, 64) for layer in (nn.Linear(width, 64), nn.ReLU())), nn.Linear(64, 10)
    )
    weights = [module.weight for module in model if isinstance(module, nn.Linear)]
    with torch.no_grad():
        for power, weight in enumerate(weights):
            weight.mul_(2.0 ** (power - 2))
    optimizer = make(model)
    found: list[list[float]] = [[] for _ in weights]
    for _ in range(num_steps):
        x = torch.randn(256, 32)
        optimizer.zero_grad()
        cross_entropy(model(x), teacher(x).argmax(dim=1)).backward()
        before = [weight.detach().clone() for weight in weights]
        optimizer.step()
        for row, weight, was in zip(found, weights, before, strict=True):
            row.append(((weight.detach() - was).norm() / was.norm()).item())
    return found


def demo(frame: Frame) -> str:
    """The share of its learning that the demo's model keeps at larger batches."""
    measured: dict[str, Any] = json.loads(files("anybatch.study").joinpath("measured.json").read_text("utf-8"))
    return shares(frame, measured["rows"], "32,768 examples")


def prose(frame: Frame) -> str:
    """The share of its learning that a GPT on English prose keeps at larger batches."""
    return shares(frame, with_kept(load(CAMPAIGN / "gpt.json")["rows"]), "64,000 examples")


def shares(frame: Frame, rows: list[dict[str, Any]], examples: str) -> str:
    """The share of the learning kept against the batch, and a line at 95 %."""
    title = f"Per cent of the learning kept, after the same {examples}"
    return over_batches(frame, rows, "kept", title, scale=100, line=95)


def questions(frame: Frame) -> str:
    """The F1 of MiniLM on questions about articles that it has not seen, fine-tuned at four batches."""
    rows = with_points(load(CAMPAIGN / "squad.json")["rows"], "squad", "f1")
    return over_batches(frame, rows, "score", f"F1, after the same {rows[0]['num_examples']:,} windows")


def images(frame: Frame) -> str:
    """The top-1 of a narrow DavidNet on CIFAR-10 at three batches; runs that diverged are left out."""
    rows = with_points(load(CAMPAIGN / "images.json")["rows"], "final", "top1", 100)
    return over_batches(frame, rows, "score", "Top-1, %, after the same three epochs")


def over_batches(
    frame: Frame, rows: list[dict[str, Any]], field: str, title: str, scale: float = 1.0, line: float | None = None
) -> str:
    """The means over seeds of `field` times `scale`, an optimizer a line, with the smallest and the largest."""
    grid = Grid(frame.width, 1, 1, 260, left=60, right=90)
    every = sorted({row["batch"] for row in rows})
    with canvas(frame.width, grid.height) as figure:
        axes = panel(figure, *grid.box(0))
        present = {row["optimizer"] for row in rows}
        for number, name in enumerate(each for each in OPTIMIZERS if each in present):
            mine = pick(rows, optimizer=name)
            batches = sorted({row["batch"] for row in mine})
            ends = [[scale * row[field] for row in pick(mine, batch=batch)] for batch in batches]
            means = [fmean(each) for each in ends]
            axes.plot(batches, means, color=ACCENTS[number], marker=MARKERS[number])
            for batch, each in zip(batches, ends, strict=True):
                axes.plot([batch] * 2, [min(each), max(each)], color=ACCENTS[number], linewidth=1.5)
            axes.annotate(
                OPTIMIZERS[name], (batches[-1], means[-1]), (10, -4),
                textcoords="offset points", color=ACCENTS[number], weight="bold",
            )  # fmt: skip
        if line is not None:
            axes.axhline(line, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_xscale("log", base=2)
        axes.set_xticks(every, [f"{batch:,}" for batch in every])
        axes.set_xlabel("batch", color=MUTED)
        write_title(axes, title, INK)
        return render(figure, frame)


def carried(frame: Frame) -> str:
    """The share of its learning that a tuned run keeps: up from batch 2 and down from batch 16, by four rules."""
    measured = json.loads((RESULTS / "scaling-rules.json").read_text("utf-8"))
    grid = Grid(frame.width, 2, 1, 260, left=44, right=80)
    with canvas(frame.width, grid.height) as figure:
        for place, optimizer in enumerate(("lamb", "adamw")):
            axes = panel(figure, *grid.box(place))
            for number, rule in enumerate(PRESETS):
                kept: dict[float, list[float]] = {1.0: [100.0]}
                for row in measured["rows"]:
                    # From batch 16 upwards the steps run out, whatever the rule.
                    carries = row["factor"] < 1 or (row["factor"] > 1 and row["reference_batch"] == 2)
                    if (row["optimizer"], row["rule"]) == (optimizer, rule) and carries:
                        kept.setdefault(row["factor"], []).append(100 * row["kept"])
                factors = sorted(kept)
                means = [fmean(kept[factor]) for factor in factors]
                axes.plot(factors, means, color=ACCENTS[number], marker=MARKERS[number], linewidth=1.5)
                for factor in factors:
                    axes.plot([factor] * 2, [min(kept[factor]), max(kept[factor])], color=ACCENTS[number], linewidth=1)
                if place:
                    axes.annotate(rule, (1.03, 0.9 - 0.1 * number), xycoords="axes fraction", color=ACCENTS[number])
            axes.set_xscale("log", base=2)
            axes.set_xticks([1 / 16, 1 / 4, 1, 4, 16], ["1/16", "1/4", "1", "4", "16"])
            axes.set_xlabel("batch / reference batch", color=MUTED)
            axes.set_ylim(bottom=0)
            write_title(axes, {"lamb": "LAMB: learning kept, %", "adamw": "AdamW: learning kept, %"}[optimizer], INK)
        return render(figure, frame)


FIGURES = {
    "how-schedules": schedules,
    "how-rules": rules,
    "how-steps": steps,
    "how-movements": movements,
    "how-demo": demo,
    "results-prose": prose,
    "results-questions": questions,
    "results-images": images,
    "results-rules": carried,
}


def main(folder: Path) -> None:
    """Writes every figure as an SVG file."""
    for name, draw in FIGURES.items():
        words = " ".join((draw.__doc__ or "").split())
        (folder / f"{name}.svg").write_text(standalone(draw(Frame(WIDTH, name, words, words))), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images")
