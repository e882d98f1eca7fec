"""The main picture, loss against batch, and the scores after fine-tuning; each returns an <svg> element."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from anybatch.report.layout import Grid, accents, cell_label, write_title
from anybatch.report.scores import Score
from anybatch.report.series import Cell, Series
from anybatch.report.svg import ACCENTS, GRID, INK, MARKERS, MUTED, PAPER, Frame, accent, canvas, panel, render
from anybatch.report.wording import gap, kept, loss, score, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def main_picture(series: Sequence[Series], frame: Frame) -> str:
    """Final held-out loss against the batch, one panel an optimizer, the others behind it in grey."""
    from matplotlib.ticker import MaxNLocator

    shown = [one for one in series if any(cell.losses for cell in one.cells)]
    narrow = frame.narrow
    columns = 1 if narrow else min(len(shown), 3)
    grid = Grid(frame.width, columns, math.ceil(len(shown) / columns), 220 if narrow else 300, right=28, bottom=70)
    batches = sorted({cell.batch for one in shown for cell in one.cells if cell.finished})
    losses = [value for one in shown for cell in one.cells for value in cell.losses]
    low = min(losses)
    # A loss far off would press everything else flat: it is drawn at the upper edge, as a diverged run is.
    high = max(value for value in losses if value <= 2.5 * low)
    high = max([high, *(one.bound for one in shown if one.bound is not None and one.bound <= 2.5 * low)])
    frequencies = [one.context_free_loss for one in shown if one.context_free_loss is not None]
    high = max([high, *(value for value in frequencies if value <= 1.25 * high)])
    room = (high - low) or abs(high) or 1.0
    limits = low - 0.12 * room, high + 0.16 * room
    colours = accents(series)
    with canvas(frame.width, grid.height) as figure:
        for number, one in enumerate(shown):
            axes = panel(figure, *grid.box(number))
            axes.set_xscale("log", base=2)
            axes.set_xlim(batches[0] / 1.45, batches[-1] * 1.45)
            axes.set_ylim(*limits)
            axes.yaxis.set_major_locator(MaxNLocator(5))
            factors = {cell.batch: f"\n{cell_label(cell)}" for cell in one.cells if cell.factor is not None}
            axes.set_xticks(batches, [f"{short(batch)}{factors.get(batch, '')}" for batch in batches])
            axes.set_xlabel("batch, and multiple of the reference batch" if factors else "batch", labelpad=6)
            for other in shown:
                if other is not one:
                    _ghost(axes, other, one, limits[1])
            if one.context_free_loss is not None and one.context_free_loss <= limits[1]:
                _frequency_line(axes, one.frequencies, one.context_free_loss)
            _main_line(axes, one, ACCENTS[colours[id(one)]], MARKERS[colours[id(one)]], limits[1])
            write_title(axes, one.label, ACCENTS[colours[id(one)]], "held-out loss")
        return render(figure, frame)


def _frequency_line(axes: "Axes", name: str, value: float) -> None:
    axes.axhline(value, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=2)
    axes.annotate(
        f"{name} {loss(value)}", (0, value), (4, -3), xycoords=("axes fraction", "data"),
        textcoords="offset points", color=MUTED, size=11, va="top",
    )  # fmt: skip


def _ghost(axes: "Axes", other: Series, one: Series, high: float) -> None:
    """Another optimizer's line, named in its middle on the side away from the panel's own line."""
    known = _line(axes, other, high, MUTED, 1.5, alpha=0.45, zorder=1)
    if not known:
        return
    cell = known[len(known) // 2 - (len(known) > 2)]
    mine = next((own.loss for own in one.cells if own.batch == cell.batch), None)
    above = mine is None or (cell.loss or 0) >= mine
    axes.annotate(
        other.label, (cell.batch, cell.loss or 0), (-8, 5) if above else (8, -5), color=MUTED, size=11,
        textcoords="offset points", ha="right" if above else "left", va="bottom" if above else "top",
    )  # fmt: skip


def _line(axes: "Axes", one: Series, high: float, colour: str, width: float, alpha: float, zorder: int) -> list[Cell]:
    """The line through the cells, broken where one diverged or lies off the scale; the cells it does go through."""
    finished = [cell for cell in one.cells if cell.finished]
    shown = [cell for cell in finished if cell.loss is not None and cell.loss <= high]
    heights = [math.nan if cell.loss is None or cell.loss > high else cell.loss for cell in finished]
    style: Any = {"color": colour, "linewidth": width, "alpha": alpha, "zorder": zorder, "marker": "."}
    axes.plot([cell.batch for cell in finished], heights, **style)
    return shown


def _main_line(axes: "Axes", one: Series, colour: str, marker: str, high: float) -> None:
    reference = one.reference
    bound = one.bound
    if reference and reference.loss is not None and bound is not None and one.judged:
        axes.axhspan(reference.loss, bound, color=colour, alpha=0.14, linewidth=0)
        axes.annotate(
            "95\u202f% kept" if one.by_share else "within 5\u202f%", (1, bound), (-4, -3), color=colour, size=11,
            xycoords=("axes fraction", "data"), textcoords="offset points", ha="right", va="top",
        )  # fmt: skip
    shown = _line(axes, one, high, colour, 2, alpha=1, zorder=3)
    before: float | None = None
    for number, cell in enumerate(cell for cell in one.cells if cell.finished):
        value = cell.loss
        if value is None or cell not in shown:
            axes.plot(cell.batch, high, marker="x", markersize=9, markeredgewidth=2.5, color=colour, clip_on=False)
            # Neighbours on different lines, so that their words have room.
            axes.annotate(
                "diverged" if value is None else loss(value), (cell.batch, high), (0, -10 - 14 * (number % 2)),
                textcoords="offset points", ha="center", va="top",
            )  # fmt: skip
            continue
        if len(cell.losses) > 1:
            axes.plot([cell.batch] * 2, [min(cell.losses), max(cell.losses)], color=colour, linewidth=1.5, zorder=3)
        inside = cell is reference or cell.held is not False
        axes.plot(
            cell.batch, value, marker=marker, markersize=9, color=colour, markeredgewidth=2, zorder=4,
            markerfacecolor=colour if inside else PAPER,
        )  # fmt: skip
        rising = before is None or value >= before
        text = loss(value) if cell is reference or cell.gap is None else gap(cell.gap)
        if cell.share is not None and cell is not reference:
            text = kept(cell.share)
        # Beside the line that comes in from the left: above it where it rises, below where it falls.
        axes.annotate(
            text, (cell.batch, value), (0 if before is None else -8, 8 if rising else -8), zorder=5,
            textcoords="offset points", ha="center" if before is None else "right",
            va="bottom" if rising else "top", weight="bold" if inside else "normal",
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1, "alpha": 0.8},
        )  # fmt: skip
        before = value


def scores(found: Sequence[Score], optimizers: Sequence[str], frame: Frame) -> str:
    """F1 and exact match of the fine-tuned runs as bars with their numbers, by batch and optimizer."""
    narrow = frame.narrow
    batches = sorted({one.batch for one in found})
    height = 24 * len(found) + 10 * len(batches)
    left = min(220 if narrow else 300, max(round(7.3 * len(f"{one.label} {one.batch}")) + 16 for one in found))
    grid = Grid(frame.width, 1 if narrow else 2, 2 if narrow else 1, height, left=left, right=44, top=34, bottom=16)
    with canvas(frame.width, grid.height) as figure:
        for number, name in enumerate(("F1", "exact match")):
            axes = panel(figure, *grid.box(number))
            values = [one.f1 if number == 0 else one.exact_match for one in found]
            places = [24 * k + 10 * batches.index(one.batch) for k, one in enumerate(found)]
            axes.grid(False)
            axes.set_xlim(0, max([v for v in values if v is not None], default=0) or 1)
            axes.set_ylim(height, -12)
            axes.set_xticks([])
            axes.set_yticks(places, [f"{one.label} {one.batch}" for one in found], color=MUTED)
            axes.spines["bottom"].set_visible(False)
            axes.axvline(0, color=GRID)
            for one, value, place in zip(found, values, places, strict=True):
                colour = ACCENTS[accent(one.optimizer, optimizers)]
                axes.barh(place, value or 0, height=17, color=colour, alpha=0.85)
                text = "no score" if value is None else score(value)
                axes.annotate(text, (value or 0, place), (6, 0), textcoords="offset points", va="center", weight="bold")
            write_title(axes, name, INK, "per cent")
        return render(figure, frame)
