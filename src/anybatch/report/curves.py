"""What happened as training went: losses, accuracies and learning rates as lines; each returns an <svg> element."""

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from anybatch.report.layout import Grid, accents, cell_label, write_title
from anybatch.report.load import Point, Record
from anybatch.report.phases import switches
from anybatch.report.series import Series
from anybatch.report.svg import ACCENTS, INK, MUTED, PAPER, Frame, canvas, panel, render, spread
from anybatch.report.wording import rate, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_POINTS = 240
_HALO = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 1.0}


def curves(series: Sequence[Series], frame: Frame, value: Callable[[Point], float | None], band: bool) -> str:
    """Held-out loss (or accuracy, by `value`) against examples and against steps, one row an optimizer."""
    from matplotlib.ticker import PercentFormatter

    shown = [one for one in series if any(value(point) is not None for run in one.records for point in run.evals)]
    columns = 1 if frame.narrow else 2
    grid = Grid(frame.width, columns, 2 * len(shown) // columns, 200 if columns == 1 else 240, right=64, bottom=52)
    low, high = _range(
        [[value(point) for point in run.evals] for one in shown for run in one.records], from_start=not band
    )
    colours = accents(series)
    with canvas(frame.width, grid.height) as figure:
        for number, one in enumerate(shown):
            for column, attribute in enumerate(("examples", "step")):
                axes = panel(figure, *grid.box(2 * number + column))
                axes.set_ylim(low, high)
                colour = ACCENTS[colours[id(one)]]
                if band and one.judged and one.reference and one.reference.loss is not None and one.bound is not None:
                    axes.axhspan(one.reference.loss, one.bound, color=colour, alpha=0.14, linewidth=0)
                _lines(axes, one, colour, attribute, value)
                if not band:
                    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol="\u202f%"))
                write_title(axes, one.label, colour)
        return render(figure, frame)


def _range(runs: Sequence[Sequence[float | None]], from_start: bool) -> tuple[float, float]:
    """The values to show. A loss starts far above where it ends: the upper half of the way down is left out."""
    known = [line for run in runs if (line := [value for value in run if value is not None])]
    low, high = min(map(min, known)), max(map(max, known))
    if not from_start:
        start = max(line[0] for line in known)
        # A run that ended above its start, or without a number, says nothing about where losses end.
        ends = [run[-1] for run in runs if run and run[-1] is not None and run[-1] < start]
        high = min(high, (start + max(ends)) / 2 if ends else 1.05 * start)
    room = max(high - low, 0.0) or 1.0
    return low - 0.08 * room, high + 0.04 * room


def rates(series: Sequence[Series], frame: Frame) -> str:
    """The learning rate against examples, one panel an optimizer, each with its own scale."""
    from matplotlib.ticker import FuncFormatter

    shown = [one for one in series if any(point.lr is not None for run in one.records for point in run.trains)]
    columns = 1 if frame.narrow else min(len(shown), 3)
    rows = math.ceil(len(shown) / columns)
    grid = Grid(frame.width, columns, rows, 180 if columns == 1 else 220, left=60, right=28, bottom=52)
    colours = accents(series)
    with canvas(frame.width, grid.height) as figure:
        for number, one in enumerate(shown):
            axes = panel(figure, *grid.box(number))
            colour = ACCENTS[colours[id(one)]]
            _axis(axes, "examples")
            peaks = []
            for order, cell in enumerate(one.cells):
                for run in cell.runs:
                    points = [(p.examples, p.lr) for p in _thinned(run.trains) if p.lr is not None]
                    if not points:
                        continue
                    axes.plot(*zip(*points, strict=True), color=colour, **_weight(order, len(one.cells), run.finished))
                    _mark_switches(axes, run, "examples")
                    peaks.append((max(points, key=lambda point: point[1]), cell_label(cell)))
            axes.set_ylim(0, (max((peak[1] for peak, _ in peaks), default=0.0) or 1.0) * 1.15)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: rate(number)))
            for text in dict.fromkeys(name for _, name in peaks):
                peak = next(place for place, name in peaks if name == text)
                axes.annotate(
                    text, peak, (0, 6), textcoords="offset points", color=INK, weight="bold", size=12, ha="center",
                    bbox=_HALO,
                )  # fmt: skip
            write_title(axes, one.label, colour, "learning rate")
        return render(figure, frame)


def _lines(axes: "Axes", one: Series, colour: str, attribute: str, value: Callable[[Point], float | None]) -> None:
    """One line a run, named at its end; `attribute` of a point is its place on the axis."""
    logarithmic = attribute == "step"
    ends: list[tuple[float, float, str]] = []
    if logarithmic:
        axes.set_xscale("log")
    for order, cell in enumerate(one.cells):
        last: list[tuple[float, float]] = []
        for run in cell.runs:
            points = [(getattr(p, attribute), value(p)) for p in _thinned(run.evals) if p.step > 0 or not logarithmic]
            known = [(x, y) for x, y in points if y is not None]
            if not known:
                continue
            style = _weight(order, len(one.cells), run.finished) | ({"marker": "o"} if len(known) == 1 else {})
            heights = [math.nan if y is None else y for _, y in points]
            axes.plot([x for x, _ in points], heights, color=colour, **style)
            if run.diverged or len(known) < len(points):
                end = known[-1][0], min(known[-1][1], axes.get_ylim()[1])
                axes.plot(*end, marker="x", markersize=8, markeredgewidth=2.5, color=colour, clip_on=False)
            last.append(known[-1])
            _mark_switches(axes, run, attribute)
        if last:
            x, y = fmean(x for x, _ in last), fmean(y for _, y in last)
            ends.append((x, y, cell_label(cell) + ("" if cell.finished else " …")))
    _axis(axes, "steps, logarithmic" if logarithmic else "examples", logarithmic)
    low, high = axes.get_ylim()
    pixels = axes.bbox.height / (high - low)
    heights = [min(max(y, low), high) * pixels for _, y, _ in ends]
    # Against examples the lines end at one place and their names need moving apart; against steps they do not.
    placed = heights if logarithmic else spread(heights, 14, low * pixels, high * pixels)
    for (x, y, text), height in zip(ends, placed, strict=True):
        axes.annotate(
            text, (x, min(max(y, low), high)), (6, height - min(max(y, low), high) * pixels), color=INK, weight="bold",
            textcoords="offset points", size=12, va="center", annotation_clip=False, bbox=_HALO,
        )  # fmt: skip


def _mark_switches(axes: "Axes", run: Record, attribute: str) -> None:
    """A dotted line where a run goes over to another phase, with the phase's number."""
    for switch in switches(run):
        axes.axvline(getattr(switch, attribute), color=MUTED, linewidth=1, linestyle=(0, (1, 2)), zorder=0)
        axes.annotate(
            f"phase {switch.phase + 1}", (getattr(switch, attribute), 0), (3, 4), xycoords=("data", "axes fraction"),
            textcoords="offset points", color=MUTED, size=11,
        )  # fmt: skip


def _weight(order: int, total: int, finished: bool) -> dict[str, Any]:
    """The smallest batch is the strongest line; a run that has not finished is dotted."""
    share = order / (total - 1) if total > 1 else 0.0
    return {"alpha": 1 - 0.5 * share, "linewidth": 2.6 - 1.1 * share, "linestyle": "-" if finished else ":"}


def _axis(axes: "Axes", name: str, logarithmic: bool = False) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axes.set_xlabel(name, labelpad=4)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: short(number)))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if logarithmic:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    """At most `_MAX_POINTS` of them, evenly, the last one always."""
    stride = math.ceil(len(points) / _MAX_POINTS)
    return points if stride <= 1 else [*points[:-1:stride], points[-1]]
