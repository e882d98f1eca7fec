"""The course of training: losses, accuracies, learning rates and gradient noise as lines."""

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from anybatch.comparison.grid import Comparison, Series
from anybatch.comparison.rows import Point, Row
from anybatch.comparison.wording import GUESSED, count, percent, rate, short
from anybatch.report.document import Figure, Section
from anybatch.report.layout import (
    HALO,
    band,
    cell_label,
    colors,
    linear,
    logarithmic,
    name_ends,
    named,
    paneled,
    weight,
    write,
    write_title,
    xy,
)
from anybatch.report.running import switches
from anybatch.report.svg import INK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_POINTS = 240
Value = Callable[[Point], float | None]


def losses(comparison: Comparison) -> Section | None:
    """Held-out losses against examples and against steps."""
    series = [one for one in comparison.told if any(point.loss is not None for run in one.rows for point in run.evals)]
    if not series:
        return None
    steps = sorted({cell.num_steps for one in series for cell in one.cells if cell.num_steps})
    caption = "Thinner and paler lines are larger batches."
    if len(steps) > 1:
        caption += (
            f" The larger the batch, the fewer the steps: {count(steps[-1])} at most, {count(steps[0])} at least."
        )
    banded = not (comparison.metric.higher or comparison.tuned)
    if banded and any(one.judged for one in series):
        caption += " The shaded band is where quality holds."
    if any(not run.finished for one in series for run in one.rows):
        caption += " Dotted lines are runs that have not finished."
    title = "Held-out loss against examples and steps"
    figure = _curves("loss", title, caption, series, lambda point: point.loss, banded)
    return Section("curves", "Held-out loss during training", [figure])


def accuracies(comparison: Comparison) -> Section | None:
    """The share of held-out data that is predicted right, against examples and against steps."""
    series = [one for one in comparison.told if any(p.accuracy is not None for run in one.rows for p in run.evals)]
    if not series:
        return None
    final = [run.accuracy for one in series for run in one.rows if run.accuracy is not None]
    low, high = (percent(each) for each in (min(final, default=None), max(final, default=None)))
    ends = "" if not final else f" It ends at {low}." if low == high else f" They end between {low} and {high}."
    tasks = {run.task for one in series for run in one.rows}
    _, heading, guessed = GUESSED.get(tasks.pop() if len(tasks) == 1 else "", GUESSED["pretraining"])
    title, caption = f"{heading}, against examples and steps", f"The share of {guessed}.{ends}"
    return Section("accuracy", heading, [_curves("accuracy", title, caption, series, lambda point: point.accuracy)])


def _curves(key: str, title: str, caption: str, series: Sequence[Series], value: Value, banded: bool = False) -> Figure:
    color, is_accuracy = colors(series), key == "accuracy"
    limits = _range([[value(point) for point in run.evals] for one in series for run in one.rows], is_accuracy)

    def draw(axes: "Axes", item: tuple[Series, str]) -> None:
        one, attribute = item
        axes.set_ylim(*limits)
        if banded:
            band(axes, one, color[one.label])
        linear(axes.yaxis)
        if is_accuracy:
            from matplotlib.ticker import PercentFormatter

            axes.yaxis.set_major_formatter(PercentFormatter(1, symbol="\u202f%"))
        _lines(axes, one, color[one.label], attribute, value)
        write_title(axes, one.label, color[one.label])

    items = [(one, attribute) for one in series for attribute in ("examples", "step")]
    return paneled(
        key, title, caption, items, draw, 240, f"One row for each optimizer. {caption}", most=2, right=80,
        narrow={"panel_height": 200},
    )  # fmt: skip


def _range(runs: Sequence[Sequence[float | None]], from_start: bool) -> tuple[float, float]:
    """Returns the range to show. A loss starts far above its end: the upper half of the way down is left out."""
    known = [line for run in runs if (line := [value for value in run if value is not None])]
    low, high = min(map(min, known)), max(map(max, known))
    if not from_start:
        start = max(line[0] for line in known)
        # A run that ended above its start, or without a number, does not count for the range.
        ends = [run[-1] for run in runs if run and run[-1] is not None and run[-1] < start]
        high = min(high, (start + max(ends)) / 2 if ends else 1.05 * start)
    room = max(high - low, 0.0) or 1.0
    return low - 0.08 * room, high + 0.04 * room


def _lines(axes: "Axes", one: Series, color: str, attribute: str, value: Value) -> None:
    """Draws one line a run, named at its end; `attribute` of a point is its place on the axis."""
    by_step = attribute == "step"
    ends: list[tuple[float, float, str, str]] = []
    for order, cell in enumerate(one.cells):
        last: list[tuple[float, float]] = []
        for run in cell.runs:
            points = [(getattr(p, attribute), value(p)) for p in _thinned(run.evals) if p.step > 0 or not by_step]
            known = [(x, y) for x, y in points if y is not None]
            if not known:
                continue
            style = _style(order, one, run) | ({"marker": "o"} if len(known) == 1 else {})
            axes.plot(*xy(points), color=color, **style)
            if run.diverged or len(known) < len(points):
                end = known[-1][0], min(known[-1][1], axes.get_ylim()[1])
                axes.plot(*end, marker="x", markersize=8, markeredgewidth=2.5, color=color, clip_on=False)
            last.append(known[-1])
            _mark_switches(axes, run, attribute)
        if last:
            name = cell_label(cell) + ("" if cell.finished else " …")
            ends.append((fmean(x for x, _ in last), fmean(y for _, y in last), name, INK))
    axes.set_xlabel("steps, logarithmic" if by_step else "examples", labelpad=4)
    if by_step:
        axes.set_xscale("log")
        logarithmic(axes.xaxis, numticks=8)
    else:
        linear(axes.xaxis, 5, short)
    # Against examples the lines end at one place, and their names must be moved apart; against steps they do not.
    name_ends(axes, ends, apart=not by_step)


def _mark_switches(axes: "Axes", run: Row, attribute: str) -> None:
    """Draws a dotted line at each switch of a run to another phase, with the phase's number."""
    for number, before, _ in switches(run):
        x = getattr(before, attribute)
        axes.axvline(x, color=MUTED, linewidth=1, linestyle=(0, (1, 2)), zorder=0)
        words = f"phase {number + 1}"
        write(axes, words, (x, 0), (3, 4), xycoords=("data", "axes fraction"), color=MUTED, size=11)


def _style(order: int, one: Series, run: Row) -> dict[str, Any]:
    """A run that has not finished is dotted."""
    return weight(order, len(one.cells)) | {"linestyle": "-" if run.finished else ":"}


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    """Returns at most `_MAX_POINTS` of them, evenly, always with the last one."""
    stride = math.ceil(len(points) / _MAX_POINTS)
    return points if stride <= 1 else [*points[:-1:stride], points[-1]]


def rates(comparison: Comparison) -> Section | None:
    """The learning rate against examples, and what else changes with the batch."""
    series = [one for one in comparison.series if any(point.lr is not None for run in one.rows for point in run.trains)]
    if not series:
        return None
    spans = []
    for one in series:
        own = one.rows if comparison.is_study else [run for run in one.rows if run.optimizer.lower() == one.optimizer]
        if known := [run.lr for run in own if run.lr is not None]:
            rule = f" ({one.rule} rule)" if one.rule else ""
            spans.append(f"{one.label} {' to '.join(dict.fromkeys((rate(min(known)), rate(max(known)))))}{rule}")
    caption = (
        f"The learning rate of every run as it warms up and decays. Highest learning rates: {'; '.join(spans)}."
        + "".join(f" {one.label}: {line}." for one in series for line in _scaled(one))
    )
    color = colors(comparison.series)

    def draw(axes: "Axes", one: Series) -> None:
        peaks: dict[str, tuple[int, float]] = {}
        highest = 0.0
        for order, cell in enumerate(one.cells):
            # Another optimizer's learning rate has a separate scale.
            for run in () if cell.owner else cell.runs:
                points = [(p.examples, p.lr) for p in _thinned(run.trains) if p.lr is not None]
                if not points:
                    continue
                axes.plot(*xy(points), color=color[one.label], **_style(order, one, run))
                _mark_switches(axes, run, "examples")
                peak = max(points, key=lambda point: point[1])
                peaks.setdefault(cell_label(cell), peak)
                highest = max(highest, peak[1])
        axes.set_xlabel("examples", labelpad=4)
        axes.set_ylim(0, (highest or 1.0) * 1.15)
        linear(axes.xaxis, 5, short)
        linear(axes.yaxis, 5, rate)
        for text, peak in peaks.items():
            write(axes, text, peak, (0, 6), color=INK, weight="bold", size=12, ha="center", bbox=HALO)
        write_title(axes, one.label, color[one.label], "learning rate")

    return Section("rates", "Learning rates", [paneled(
        "rates", "Learning rate against examples", caption, series, draw, 220, left=60, right=28,
        narrow={"panel_height": 180},
    )])  # fmt: skip


def _scaled(one: Series) -> list[str]:
    """Returns the other hyperparameters that change with the batch: 'betas 0.9 0.999 at batch 64, ...'."""
    runs = sorted((run for run in one.rows if run.hyperparameters), key=lambda run: run.batch)
    lines = []
    for name in dict.fromkeys(name for run in runs for name in run.hyperparameters):
        values = {run.batch: run.hyperparameters.get(name, "none") for run in runs}
        if len(set(values.values())) > 1:
            lines.append(f"{name} " + ", ".join(f"{value} at batch {batch:,}" for batch, value in values.items()))
    return lines


def noise(comparison: Comparison) -> Section | None:
    """The gradient noise scale against examples, with its interval."""
    series = [one for one in comparison.told if any(run.noise for run in one.rows)]
    last = [
        f"{named(one, cell)} {_bounded(found.value)} ({_bounded(found.low)} to {_bounded(found.high)})"
        for one in series for cell in one.cells for run in cell.runs[:1] if run.noise for found in [run.noise[-1].noise]
    ]  # fmt: skip
    if not last:
        return None
    caption = (
        "The batch, in examples, at which the noise of a gradient is as large as the gradient: far below it a doubled "
        "batch halves the steps, far above it only burns examples. Bands: 95 % intervals, over equal stretches of the "
        f"steps in which it was measured; at the upper edge they have no bound. At the end: {'; '.join(last)}."
    )
    color = colors(comparison.series)
    known = [point.noise for one in series for run in one.rows for point in run.noise]
    ends = [value for each in known for value in (each.low, each.value) if 0 < value < math.inf] or [1.0]
    bottom, top = min(ends) / 1.5, max(ends) * 1.5

    def draw(axes: "Axes", one: Series) -> None:
        axes.set_yscale("log")
        axes.set_ylim(bottom, top)
        for order, cell in enumerate(one.cells):
            for run in cell.runs:
                if not run.noise:
                    continue
                xs = [point.examples for point in run.noise]
                lows, values, highs = (
                    [min(max(getattr(point.noise, end), bottom), top) for point in run.noise]
                    for end in ("low", "value", "high")
                )
                axes.fill_between(xs, lows, highs, color=color[one.label], alpha=0.12, linewidth=0)
                axes.plot(xs, values, color=color[one.label], marker=".", **weight(order, len(one.cells)))
                style = {"weight": "bold", "size": 12, "va": "center", "annotation_clip": False}
                write(axes, cell_label(cell), (xs[-1], values[-1]), (6, 0), color=INK, **style)
        axes.set_xlabel("examples", labelpad=4)
        linear(axes.xaxis, 4, short)
        logarithmic(axes.yaxis)
        write_title(axes, one.label, color[one.label], "noise scale")

    title = "Gradient noise scale against examples"
    figure = paneled("noise", title, caption, series, draw, 240, left=60, right=76)
    return Section("noise", "Gradient noise scale", [figure])


def _bounded(batch: float) -> str:
    return short(batch) if math.isfinite(batch) else "unbounded"
