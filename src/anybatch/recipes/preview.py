"""A recipe before it is run: its phases, steps and rates, and what they would take here."""

import math
import tempfile
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from anybatch.engine.job import Phase
from anybatch.engine.preview import preview
from anybatch.numbers import duration
from anybatch.recipes.change import with_absolute_paths
from anybatch.recipes.execute import build
from anybatch.recipes.optimizers import MOMENTS
from anybatch.recipes.recipe import CorpusSettings, ImageSettings, Recipe
from anybatch.runs import Run

_SIZES = ("sequence_length", "image_size")
_COLUMNS = 64
_ROWS = 8
_BARS = " ▁▂▃▄▅▆▇█"


def preview_recipe(recipe: Recipe, num_ranks: int = 1) -> dict[str, Any]:
    """What `recipe` would do on `num_ranks` processes like this one; JSON values only.

    Nothing is trained: one micro-batch, or as much of it as takes a while, and one optimizer step of every phase are
    run, at rate 0, on a model that is thrown away. Times leave out evaluation, checkpoints, and what ranks take to talk
    to each other.

    Raises:
        InputError: as training would.
    """
    stands_in = stand_in(recipe)
    with tempfile.TemporaryDirectory() as scratch:
        job = build(with_absolute_paths(with_stand_in(recipe) if stands_in else recipe), Run(Path(scratch)))
        measured = preview(job, num_ranks)
        costs = measured.costs
    phases = [
        {
            "batch_size": phase.global_batch_size,
            **{name: value for name in _SIZES if (value := getattr(settings, name, None)) is not None},
            "num_steps": phase.num_steps,
            "num_examples": phase.num_examples,
            "lr": phase.lr,
            "warmup_steps": phase.warmup_steps,
            "hyperparameters": {name: value for name, value in phase.hyperparameters.items() if name != "lr"},
            "carry_over": phase.carry_over,
            "micro_batch_size": cost.micro_batch_size,
            "activation_bytes": cost.activation_bytes,
            "step_s": cost.step_s,
            "time_s": cost.step_s * phase.num_steps,
        }
        for settings, phase, cost in zip(recipe.phases, job.phases, costs, strict=True)
    ]
    shards = num_ranks if recipe.engine.parallel == "fsdp" else 1
    kept = sum(measured.state_bytes.values()) / shards
    return {
        "recipe": recipe.name,
        "optimizer": recipe.optimizer.name,
        "fixed": [
            *(name for name in MOMENTS if name in recipe.optimizer.options),
            *(["weight decay"] if recipe.optimizer.weight_decay is not None else []),
        ],
        "reference": {"batch_size": recipe.reference.batch_size, "rule": recipe.reference.rule},
        "inferred": list(recipe.inferred),
        "stand_in": stands_in,
        "num_ranks": num_ranks,
        "phases": phases,
        "num_steps": job.num_steps,
        "num_examples": job.num_examples,
        "parameters": sum(parameter.numel() for parameter in job.model.parameters()),
        "state_bytes": measured.state_bytes,
        "memory_bytes_a_rank": round(kept + max(cost.activation_bytes for cost in costs)),
        "time_s": sum(cost.step_s * phase.num_steps for phase, cost in zip(job.phases, costs, strict=True)),
        "learning_rates": sampled_rates(job.phases),
    }


def stand_in(recipe: Recipe) -> str | None:
    """In words, what stands in for the data of a recipe that has none yet, of the extent that its source had."""
    data = recipe.data
    if data.path is not None:
        return None
    if isinstance(data, ImageSettings) and data.builtin is None and data.source_examples:
        return f"{data.source_examples:,} blank images"
    if isinstance(data, CorpusSettings) and data.source_vocabulary:
        return f"Python's text, repeated, under a vocabulary of {data.source_vocabulary:,}"
    return None


def with_stand_in(recipe: Recipe) -> Recipe:
    """`recipe` on the data that stand in for its own."""
    assert isinstance(recipe.data, CorpusSettings | ImageSettings)
    return recipe.model_copy(update={"data": replace(recipe.data, builtin="blank")})


def sampled_rates(phases: Sequence[Phase], count: int = _COLUMNS) -> list[dict[str, float]]:
    """The rates of `count` steps (all, where there are fewer) spread evenly over all phases."""
    ends = list(accumulate(phase.num_steps for phase in phases))
    rates = []
    for step in _spread(ends[-1], count):
        number = bisect_right(ends, step)
        phase = phases[number]
        rates.append({"step": step + 1, "lr": phase.lr * phase.schedule(step - (ends[number] - phase.num_steps))})
    return rates


def preview_text(found: dict[str, Any]) -> str:
    """`preview_recipe`'s answer for a terminal: a table, a plot of the learning rate, and two estimates."""
    size = next(name for name in _SIZES if name in found["phases"][0])
    names = ("batch_size", size, "num_steps", "num_examples", "lr", "warmup_steps", "carry_over",
             "micro_batch_size")  # fmt: skip
    table = [[name.removeprefix("num_").replace("_", " ") for name in names]]
    for phase in found["phases"]:
        table.append([f"{phase[n]:,}" if isinstance(phase[n], int) else f"{phase[n]:.4g}" if n == "lr" else phase[n]
                      for n in names])  # fmt: skip
    lines = [*aligned(table), "", *_hyperparameters(found)]
    rates = [point["lr"] for point in found["learning_rates"]]
    lines += ["", f"learning rate over {found['num_steps']:,} steps", *plot(rates), ""]
    memory = found["memory_bytes_a_rank"]
    lines.append(f"memory: about {memory / 2**20:,.0f} MiB a process for {found['parameters']:,} parameters, their "
                 "gradients, the optimizer's state and a micro-batch; Python and PyTorch take 0.4 GB more")  # fmt: skip
    processes = "1 process" if found["num_ranks"] == 1 else f"{found['num_ranks']} processes"
    lines.append(f"time: about {duration(found['time_s'])} on {processes} like this one, "
                 "from a micro-batch, or a part of one, timed now")  # fmt: skip
    if found["stand_in"]:
        lines.append(f"data: {found['stand_in']}, for data.path is not set")
    lines += [f"inferred, not in the source: {each}" for each in found["inferred"]]
    return "\n".join(lines)


def _hyperparameters(found: dict[str, Any]) -> list[str]:
    """What the optimizer is given beside the learning rate, in each phase; one line if it is the same in all."""
    shown = []
    for phase in found["phases"]:
        settings = (f"{name.replace('_', ' ')} {hyperparameter(x)}" for name, x in phase["hyperparameters"].items())
        shown.append(f"{found['optimizer']}: {', '.join(settings)}")
    fixed = f"; {', '.join(found['fixed'])} set after scaling" if found["fixed"] else ""
    rule = f" ({found['reference']['rule']} rule from batch {found['reference']['batch_size']:,}{fixed})"
    if len(set(shown)) == 1:
        return [shown[0] + rule]
    return [f"phase {number}: {line}{rule}" for number, line in enumerate(shown, 1)]


def hyperparameter(value: Any) -> str:
    """A hyperparameter for a person: betas as '0.9 0.999', numbers to six digits."""
    return " ".join(f"{each:.6g}" for each in value) if isinstance(value, list | tuple) else f"{value:.6g}"


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Rows whose columns end below each other."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in table]


def plot(values: list[float]) -> list[str]:
    """A column for each value, 8 rows high, with the greatest one beside the first row and 0 beside the last."""
    top = max(values) or 1.0
    heights = [value / top * _ROWS * (len(_BARS) - 1) for value in values]
    rows = []
    for row in reversed(range(_ROWS)):
        label = f"{top:9.3g}" if row == _ROWS - 1 else f"{0:9d}" if row == 0 else " " * 9
        levels = (min(max(math.ceil(height) - row * (len(_BARS) - 1), 0), len(_BARS) - 1) for height in heights)
        rows.append(f"{label} {''.join(_BARS[level] for level in levels)}".rstrip())
    return rows


def _spread(length: int, count: int) -> list[int]:
    if length <= count:
        return list(range(length))
    return [round(place * (length - 1) / (count - 1)) for place in range(count)]
