"""The results of each batch: final scores, steps to the target, and the learning rate's valley."""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from anybatch.comparison.cell import LR, Cell
from anybatch.comparison.findings import cell_score, place
from anybatch.comparison.grid import Comparison, Series
from anybatch.comparison.wording import count, gap, kept, loss, rate, short
from anybatch.report.document import Figure, Section
from anybatch.report.layout import (
    HALO,
    accents,
    band,
    batch_axis,
    cell_label,
    colors,
    linear,
    logarithmic,
    name_ends,
    paneled,
    weight,
    window,
    write,
    write_title,
    xy,
)
from anybatch.report.svg import ACCENTS, INK, MARKERS, MUTED, PAPER

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def quality(comparison: Comparison) -> Figure | None:
    """Draws the final score against the batch: a panel a contender if each has a reference, otherwise one."""
    shown = [one for one in comparison.told if any(cell.scores for cell in one.cells)]
    if not shown:
        return None
    metric, apart = comparison.metric, not comparison.tuned and any(one.judged for one in shown)
    described = ". ".join(
        f"{one.label}: {'; '.join(f'{place(cell)} {cell_score(cell)}' for cell in one.cells if cell.finished)}"
        for one in shown
    )
    caption = (
        "No reference run has finished, so there is no band to compare scores with." if not comparison.is_study else ""
    )
    if apart:
        held = "end at most 5 % worse than their reference, in the shaded band"
        if any(one.by_share for one in shown):
            held = (
                "keep at least 95 % of what the optimizer's own reference learned beyond "
                f"{shown[0].frequencies}: they end in the shaded band"
            )
        caption = f"Filled points {held}; hollow points do not."
    if comparison.is_study:
        caption += f" {'Higher' if metric.higher else 'Lower'} is better."
    if comparison.repeated:
        caption += " Points are means over the seeds, bars their 95 % intervals, and small dots the seeds."
    caption += " A cross at the edge marks a score beyond the scale, or one that is not finite."
    numbers, limits = accents(comparison.series), _limits(shown, metric.higher, apart)
    batches = sorted({cell.batch for one in shown for cell in one.cells if cell.finished})

    def draw(axes: "Axes", group: Sequence[Series]) -> None:
        batch_axis(axes, batches)
        axes.set_ylim(*limits)
        linear(axes.yaxis)
        ends = []
        for one in group:
            number = numbers[one.label]
            # A little to the side, so that intervals at one batch do not hide each other.
            aside = 1.0 if apart else 2 ** ((number - 1) * 0.06)
            end = _line(axes, one, ACCENTS[number], MARKERS[number], aside, apart)
            ends += [] if apart or end is None else [(*end, one.label, ACCENTS[number])]
        if apart:
            _held_to(axes, group[0], [one for one in shown if one is not group[0]], batches, ACCENTS[number])
            write_title(axes, group[0].label, ACCENTS[number], metric.name)
        else:
            name_ends(axes, ends)
            write_title(axes, metric.name, INK)

    title = f"Final {metric.name} against global batch size"
    if apart:
        return paneled("quality", title, caption.strip(), [[one] for one in shown], draw, 300, described, right=28,
                       bottom=70, narrow={"panel_height": 220})  # fmt: skip
    return paneled("quality", title, caption.strip(), [comparison.series], draw, 320, described, left=60, right=110)


def _limits(shown: Sequence[Series], higher: bool, apart: bool) -> tuple[float, float]:
    """Returns the limits of the axis: a score far off is drawn at the edge, like a diverged run."""
    scores = [score for one in shown for cell in one.cells for score in cell.scores]
    if not apart:
        # Without words beside the points, a score at the edge could be anything: all are shown.
        room = 0.12 * (max(scores) - min(scores) or abs(scores[0]) or 1.0)
        return min(scores) - room, max(scores) + room
    low, high = window(scores, higher, 1.5)
    room = (high - low) * 0.12 / 1.24
    more = [one.bound for one in shown if one.bound is not None]
    more += [one.context_free_loss for one in shown if one.context_free_loss is not None and not higher]
    inside = [value for value in more if low - room <= value <= high + (high - low)]
    return min([low, *(value - room for value in inside)]), max([high, *(value + room for value in inside)])


def _held_to(axes: "Axes", one: Series, others: Sequence[Series], batches: Sequence[int], color: str) -> None:
    """Draws the band in which quality holds, the loss of frequencies, and the other contenders in gray."""
    factors = {cell.batch: f"\n{cell_label(cell)}" for cell in one.cells if cell.factor is not None}
    axes.set_xticks(list(batches), [f"{short(batch)}{factors.get(batch, '')}" for batch in batches])
    axes.set_xlabel("batch, and multiple of the reference batch" if factors else "batch", labelpad=6)
    low, high = axes.get_ylim()
    for other in others:
        known = [(c.batch, c.score) for c in other.cells if c.score is not None and low <= c.score <= high]
        axes.plot(*xy(known), ".-", color=MUTED, lw=1.5, alpha=0.45, zorder=1)
        if known:
            # Named in its middle, on the side away from the panel's own line.
            x, y = known[len(known) // 2 - (len(known) > 2)]
            mine = one.at(x)
            if mine is None or mine.score is None or y >= mine.score:
                write(axes, other.label, (x, y), (-8, 5), color=MUTED, size=11, ha="right", va="bottom")
            else:
                write(axes, other.label, (x, y), (8, -5), color=MUTED, size=11, ha="left", va="top")
    aside: Any = {"xycoords": ("axes fraction", "data"), "size": 11, "va": "top"}
    start = one.context_free_loss
    if start is not None and low <= start <= high:
        axes.axhline(start, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=2)
        write(axes, f"{one.frequencies} {loss(start)}", (0, start), (4, -3), color=MUTED, **aside)
    band(axes, one, color)
    if one.judged and one.bound is not None:
        words = "95\u202f% kept" if one.by_share else "within 5\u202f%"
        write(axes, words, (1, one.bound), (-4, -3), color=color, ha="right", **aside)


def _line(axes: "Axes", one: Series, color: str, marker: str, aside: float, named: bool) -> tuple[float, float] | None:
    """Draws the line through the cells, broken at missing numbers or off the scale; returns its last point."""
    low, high = axes.get_ylim()
    worst = low if one.metric.higher else high
    cells = [cell for cell in one.cells if cell.finished or cell.failed]
    inside = {cell.batch: cell.score for cell in cells if cell.score is not None and low <= cell.score <= high}
    places = [cell.batch * aside for cell in cells]
    axes.plot(*xy((x, inside.get(cell.batch)) for x, cell in zip(places, cells, strict=True)), color=color, zorder=3)
    end: tuple[float, float] | None = None
    for number, (x, cell) in enumerate(zip(places, cells, strict=True)):
        value = inside.get(cell.batch)
        if value is None:
            axes.plot(x, worst, "x", markersize=9, markeredgewidth=2.5, color=color, clip_on=False)
            word = loss(cell.score) if cell.score is not None else "diverged" if cell.diverged else "failed"
            if named:
                # Neighbors on different lines, so that their words have room.
                write(axes, word, (x, worst), (0, -10 - 14 * (number % 2)), ha="center", va="top")
            continue
        _spread_of(axes, cell, x, color)
        good = not named or cell is one.reference or cell.held is not False
        face = color if good else PAPER
        axes.plot(x, value, marker=marker, markersize=9, color=color, markeredgewidth=2, zorder=4, markerfacecolor=face)
        if named:
            rising = end is None or value >= end[1]
            plain = cell is one.reference or cell.gap is None
            words = loss(value) if plain else gap(cell.gap) if cell.share is None else kept(cell.share)
            # Beside the line that comes in from the left: above it if it rises, below it if it falls.
            write(
                axes, words, (x, value), (0 if end is None else -8, 8 if rising else -8),
                zorder=5, ha="center" if end is None else "right",
                va="bottom" if rising else "top", weight="bold" if good else "normal", bbox=HALO,
            )  # fmt: skip
        end = x, value
    return end


def _spread_of(axes: "Axes", cell: Cell, x: float, color: str) -> None:
    """Draws the interval, with an arrow if it leaves the figure, and the seeds as dots."""
    low, high = axes.get_ylim()
    if cell.final is not None and cell.final.low is not None and cell.final.high is not None:
        ends = max(cell.final.low, low), min(cell.final.high, high)
        axes.plot([x, x], ends, color=color, linewidth=1.5, zorder=3)
        for beyond, edge, arrow in ((cell.final.low < low, low, "v"), (cell.final.high > high, high, "^")):
            if beyond:
                axes.plot(x, edge, arrow, color=color, markersize=7, clip_on=False)
        axes.plot([x] * len(cell.scores), cell.scores, ".", color=color, markersize=6, alpha=0.8)


def steps(comparison: Comparison) -> Section | None:
    """Draws steps to the target against the batch, both logarithmic, with perfect scaling and the fitted curve."""
    shown = [one for one in comparison.series if any(cell.reached for cell in one.cells)]
    if not shown:
        return None
    caption = (
        "Both axes logarithmic. Dashed: perfect scaling, twice the batch in half the steps, from the smallest. Where "
        "the points leave it, more examples a step no longer make up for fewer steps. Curves: the fitted "
        "E = E_min (1 + B/B_crit). Small dots are seeds, large marks their mean, if all arrived. Between two "
        "evaluations the target is met on a straight line."
    )
    title = f"Steps to a {comparison.metric.name} of {comparison.metric.target:g} against batch"
    batches, numbers = comparison.batches, accents(comparison.series)
    whole = {one.label: [(c.batch, c.steps.mean) for c in one.cells if c.steps] for one in shown}
    perfect = {
        label: [known[0][1] * known[0][0] / batch for batch in batches] for label, known in whole.items() if known
    }
    seen = [place[0] for one in shown for cell in one.cells for place in cell.reached.values()]
    seen += [step for line in perfect.values() for step in line]

    def draw(axes: "Axes", one: Series) -> None:
        batch_axis(axes, batches)
        axes.set_yscale("log")
        logarithmic(axes.yaxis, numticks=6)
        color, marker, fit = ACCENTS[numbers[one.label]], MARKERS[numbers[one.label]], one.scaling.fit
        if one.label in perfect:
            axes.plot(batches, perfect[one.label], color=MUTED, linewidth=1.5, linestyle=(0, (4, 3)))
        if fit is not None and math.isfinite(fit.b_crit.mean):
            curve = [batches[0] * (batches[-1] / batches[0]) ** (k / 60) for k in range(61)]
            heights = [fit.e_min.mean * (1 / batch + 1 / fit.b_crit.mean) for batch in curve]
            axes.plot(curve, heights, color=color, linewidth=1.2, alpha=0.6)
        seeds = [(cell.batch, place[0]) for cell in one.cells for place in cell.reached.values()]
        axes.plot(*xy(seeds), ".", color=color, markersize=6, alpha=0.8)
        axes.plot(*xy(whole[one.label]), marker, color=color, markersize=8)
        axes.set_ylim(min(seen) / 1.3, max(seen) * 1.3)
        axes.set_ylabel("steps", labelpad=4)
        write_title(axes, one.label, color)

    return Section("steps", title, [paneled("steps", title, caption, shown, draw, 240, left=60, right=28)])


def sensitivity(comparison: Comparison) -> Section | None:
    """Draws the tuning runs' final score against the learning rate, a panel a contender, a line a batch."""
    if not any(LR in run.settings for run in comparison.rows if run.part == "tuning" and run.state != "not run"):
        return None
    seeds = sorted({run.seed for run in comparison.rows if run.part == "tuning" and run.seed is not None})
    each = f"the run of seed {seeds[0]}" if len(seeds) == 1 else f"the mean over {len(seeds)} tuning seeds"
    caption = (
        f"One panel an optimizer, one line a batch; {each} at each rate. A flat valley forgives a wrong rate, a narrow "
        "one does not. At the edge, crosses: diverged; triangles: beyond it."
    )
    if comparison.parts:
        caption += " Judged by the other half of the held-out data than what is reported."
    title = f"How much the learning rate matters: final {comparison.metric.name} of the tuning runs"
    higher, color_of = comparison.metric.higher, colors(comparison.series)
    lines = {(one.label, cell.batch): _by_rate(cell) for one in comparison.series for cell in one.cells}
    limits = window([value for line in lines.values() for _, value in line if value is not None], higher, 0.05)
    worst = limits[0] if higher else limits[1]

    def draw(axes: "Axes", one: Series) -> None:
        color, ends = color_of[one.label], []
        axes.set_xscale("log")
        for order, cell in enumerate(one.cells):
            line = lines[one.label, cell.batch]
            known = [(x, y) for x, y in line if y is not None]
            axes.plot(*xy(line), color=color, marker=".", **weight(order, len(one.cells)))
            lost = [x for x, y in line if y is None]
            beyond = [x for x, y in known if (y < limits[0] if higher else y > limits[1])]
            for xs, mark in ((lost, "x"), (beyond, "v" if higher else "^")):
                axes.plot(xs, [worst] * len(xs), mark, color=color, markersize=8, markeredgewidth=2, clip_on=False)
            if known:
                ends.append((*known[-1], count(cell.batch), INK))
        axes.set_ylim(*limits)
        logarithmic(axes.xaxis, numticks=6, shown=rate)
        linear(axes.yaxis)
        axes.set_xlabel("learning rate", labelpad=4)
        axes.set_ylabel(comparison.metric.name, labelpad=4)
        name_ends(axes, ends)
        write_title(axes, one.label, color)

    figure = paneled("sensitivity", title, caption, comparison.series, draw, 220, left=60, right=60)
    return Section("sensitivity", title, [figure])


def _by_rate(cell: Cell) -> list[tuple[float, float | None]]:
    """Returns the mean over the tuning seeds by rising learning rate, None if one of them diverged."""
    runs = [run for run in cell.tuning if LR in run.settings and run.state != "not run"]
    found: list[tuple[float, float | None]] = []
    for lr in sorted({run.settings[LR] for run in runs}):
        values = [run.score for run in runs if run.settings[LR] == lr]
        found.append((lr, fmean(known) if len(known := [v for v in values if v is not None]) == len(values) else None))
    return found
