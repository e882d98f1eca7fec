"""A study's figures: quality and steps against batch, and the learning rate's valley; each returns an <svg> element."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from anybatch.report.layout import Grid, write_title
from anybatch.report.svg import ACCENTS, INK, MARKERS, MUTED, Frame, accent, canvas, panel, render, spread
from anybatch.report.wording import count, rate, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def quality(found: Mapping[str, Any], frame: Frame) -> str:
    """The final metric against the batch, a line an optimizer."""
    grid = Grid(frame.width, 1, 1, 320, left=60, right=110, bottom=52)
    batches = found["declaration"]["batch_sizes"]
    higher = found["higher_is_better"]
    shown = [value for cell in found["cells"] if cell["final"] for value in cell["finals"].values()]
    room = 0.12 * (max(shown) - min(shown) or abs(shown[0]) or 1.0)
    low, high = min(shown) - room, max(shown) + room
    with canvas(frame.width, grid.height) as drawing:
        axes = panel(drawing, *grid.box(0))
        _batch_axis(axes, batches)
        ends = []
        for name, number in _numbers(found):
            cells = [cell for cell in found["cells"] if cell["entrant"] == name]
            known = [cell for cell in cells if cell["final"]]
            colour = ACCENTS[number]
            xs = [cell["batch_size"] * _aside(number) for cell in known]
            ys = [cell["final"]["mean"] for cell in known]
            axes.plot(xs, ys, color=colour, marker=MARKERS[number], markersize=8)
            for x, cell in zip(xs, known, strict=True):
                if cell["final"]["low"] is not None:
                    ends_at = (max(cell["final"]["low"], low), min(cell["final"]["high"], high))
                    axes.plot([x, x], ends_at, color=colour, linewidth=1.5)
                    # An interval that goes on beyond the picture ends in an arrow.
                    for end, edge, arrow in zip(("low", "high"), (low, high), ("v", "^"), strict=True):
                        if (cell["final"][end] - edge) * (1 if end == "high" else -1) > 0:
                            axes.plot(x, edge, arrow, color=colour, markersize=7, clip_on=False)
                values = list(cell["finals"].values())
                axes.plot([x] * len(values), values, ".", color=colour, markersize=6, alpha=0.8)
            worst = low if higher else high
            for cell in cells:
                if not cell["final"]:
                    x = cell["batch_size"] * _aside(number)
                    axes.plot(x, worst, "x", color=colour, markersize=9, markeredgewidth=2.5, clip_on=False)
            if ys:
                ends.append((xs[-1], min(max(ys[-1], low), high), name, colour))
        axes.set_ylim(low, high)
        _name_lines(axes, ends)
        write_title(axes, found["metric_name"], INK)
        return render(drawing, frame)


def steps(found: Mapping[str, Any], frame: Frame) -> str:
    """Steps to the target against the batch, both logarithmic, with perfect scaling and the fitted curve."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    names = [(name, number) for name, number in _numbers(found) if any(_reached(found, name))]
    columns = 1 if frame.narrow else min(3, len(names))
    grid = Grid(frame.width, columns, -(-len(names) // columns), 240, left=60, right=28, bottom=52)
    batches = found["declaration"]["batch_sizes"]
    values = [step for cell in found["cells"] for step in cell["steps_to_target"].values()]
    fits = {row["entrant"]: row["fit"] for row in found["scaling"]}
    perfect = {name: _perfect(_reached(found, name), batches) for name, _ in names}
    seen = [*values, *(step for line in perfect.values() for step in line)]
    with canvas(frame.width, grid.height) as drawing:
        for place, (name, number) in enumerate(names):
            axes = panel(drawing, *grid.box(place))
            _batch_axis(axes, batches)
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=6))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
            colour = ACCENTS[number]
            cells = _reached(found, name)
            whole = [cell for cell in cells if cell["steps"]]
            if perfect[name]:
                axes.plot(batches, perfect[name], color=MUTED, linewidth=1.5, linestyle=(0, (4, 3)))
            if fits.get(name) and fits[name]["b_crit"]["mean"] is not None:
                curve = [batches[0] * (batches[-1] / batches[0]) ** (k / 60) for k in range(61)]
                fit = fits[name]["e_min"]["mean"], fits[name]["b_crit"]["mean"]
                axes.plot(curve, [fit[0] * (1 / b + 1 / fit[1]) for b in curve], color=colour, linewidth=1.2, alpha=0.6)
            for cell in cells:
                each = list(cell["steps_to_target"].values())
                axes.plot([cell["batch_size"]] * len(each), each, ".", color=colour, markersize=6, alpha=0.8)
            axes.plot(
                [cell["batch_size"] for cell in whole], [cell["steps"]["mean"] for cell in whole], color=colour,
                marker=MARKERS[number], markersize=8, linestyle="none",
            )  # fmt: skip
            axes.set_ylim(min(seen) / 1.3, max(seen) * 1.3)
            axes.set_ylabel("steps", labelpad=4)
            write_title(axes, name, colour)
        return render(drawing, frame)


def sensitivity(found: Mapping[str, Any], frame: Frame) -> str:
    """The tuning runs' final metric against the learning rate, a panel an optimizer, a line a batch."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    names = _numbers(found)
    columns = 1 if frame.narrow else min(3, len(names))
    grid = Grid(frame.width, columns, -(-len(names) // columns), 220, left=60, right=60, bottom=52)
    points = {
        (cell["entrant"], cell["batch_size"]): _by_rate(cell["sensitivity"])
        for cell in found["cells"]
    }  # fmt: skip
    higher = found["higher_is_better"]
    low, high = _window([value for line in points.values() for _, value in line if value is not None], higher)
    worst = low if higher else high
    batches = found["declaration"]["batch_sizes"]
    with canvas(frame.width, grid.height) as drawing:
        for place, (name, number) in enumerate(names):
            axes = panel(drawing, *grid.box(place))
            axes.set_xscale("log")
            ends = []
            for order, batch in enumerate(batches):
                line = points[name, batch]
                share = order / max(1, len(batches) - 1)
                known = [(x, y) for x, y in line if y is not None]
                axes.plot(
                    [x for x, _ in line], [math.nan if y is None else y for _, y in line], color=ACCENTS[number],
                    alpha=1 - 0.5 * share, linewidth=2.6 - 1.1 * share, marker=".",
                )  # fmt: skip
                axes.plot(
                    [x for x, y in line if y is None], [worst for _, y in line if y is None], "x",
                    color=ACCENTS[number], markersize=8, markeredgewidth=2, clip_on=False,
                )  # fmt: skip
                beyond = [x for x, y in known if (y < low if higher else y > high)]
                axes.plot(
                    beyond, [worst] * len(beyond), "v" if higher else "^", color=ACCENTS[number], markersize=7,
                    clip_on=False,
                )  # fmt: skip
                if known:
                    ends.append((known[-1][0], min(max(known[-1][1], low), high), count(batch), INK))
            axes.set_ylim(low, high)
            axes.xaxis.set_major_locator(LogLocator(numticks=6))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: rate(value)))
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.set_xlabel("learning rate", labelpad=4)
            axes.set_ylabel(found["metric_name"], labelpad=4)
            _name_lines(axes, ends)
            write_title(axes, name, ACCENTS[number])
        return render(drawing, frame)


def _numbers(found: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Each entrant and the number of its colour and marker."""
    names = [entrant["name"] for entrant in found["declaration"]["entrants"]]
    lowered = [name.lower() for name in names]
    return [(name, accent(name.lower(), lowered)) for name in names]


def _reached(found: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    return [cell for cell in found["cells"] if cell["entrant"] == name and cell["steps_to_target"]]


def _perfect(cells: Sequence[Mapping[str, Any]], batches: Sequence[int]) -> list[float]:
    """The steps at each batch if twice the batch took half of them, from the smallest that every seed arrived at."""
    first = next((cell for cell in cells if cell["steps"]), None)
    return [] if first is None else [first["steps"]["mean"] * first["batch_size"] / batch for batch in batches]


def _by_rate(line: Sequence[Mapping[str, Any]]) -> list[tuple[float, float | None]]:
    """The mean over the tuning seeds at each rate, None where one of them diverged; by rising rate."""
    rates = sorted({point["optimizer.lr"] for point in line if "optimizer.lr" in point})
    found: list[tuple[float, float | None]] = []
    for lr in rates:
        values = [point["final"] for point in line if point.get("optimizer.lr") == lr]
        found.append((lr, None if None in values else fmean(values)))
    return found


def _window(values: Sequence[float], higher: bool) -> tuple[float, float]:
    """The values to show: what lies far on the wrong side of the median would press the rest flat."""
    if not values:  # every run diverged or failed
        return 0.0, 1.0
    ordered = sorted(values, reverse=higher)
    best, middle = ordered[0], ordered[len(ordered) // 2]
    worst = ordered[-1]
    reach = 4 * abs(middle - best) or abs(best) * 0.05 or 1.0
    bound = max(worst, best - reach) if higher else min(worst, best + reach)
    room = 0.12 * (abs(bound - best) or abs(best) * 0.05 or 1.0)
    return min(best, bound) - room, max(best, bound) + room


def _aside(number: int) -> float:
    """A little to the side, so that intervals at one batch do not hide each other."""
    return float(2 ** ((number - 1) * 0.06))


def _batch_axis(axes: "Axes", batches: Sequence[int]) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log", base=2)
    axes.set_xlim(batches[0] / 1.45, batches[-1] * 1.45)
    axes.set_xticks(list(batches), [count(batch) for batch in batches])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("global batch size", labelpad=4)


def _name_lines(axes: "Axes", ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Each line's name at its end, moved apart where two end together."""
    low, high = axes.get_ylim()
    pixels = axes.bbox.height / (high - low)
    heights = [(y - low) * pixels for _, y, _, _ in ends]
    for (x, y, name, colour), height in zip(ends, spread(heights, 15, 0, (high - low) * pixels), strict=True):
        axes.annotate(
            name, (x, y), (8, height - (y - low) * pixels), textcoords="offset points", color=colour, weight="bold",
            va="center", annotation_clip=False,
        )  # fmt: skip
