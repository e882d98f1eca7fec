"""The gradient noise scale against examples: the batch at which noise and signal are equal, run by run."""

from collections.abc import Sequence

from anybatch.report.layout import Grid, accents, cell_label, write_title
from anybatch.report.series import Series
from anybatch.report.svg import ACCENTS, INK, Frame, canvas, panel, render
from anybatch.report.wording import short


def noise_curves(series: Sequence[Series], frame: Frame) -> str:
    """The noise scale against examples, one panel an optimizer, one line a run, its interval shaded."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    shown = [one for one in series if any(run.noise for run in one.records)]
    columns = 1 if frame.narrow else min(len(shown), 3)
    grid = Grid(frame.width, columns, -(-len(shown) // columns), 240, left=60, right=76, bottom=52)
    points = [point.noise for one in shown for run in one.records for point in run.noise]
    ends = [value for noise in points for value in (noise.low, noise.value) if 0 < value < float("inf")] or [1.0]
    low, high = min(ends) / 1.5, max(ends) * 1.5
    colours = accents(series)
    with canvas(frame.width, grid.height) as drawing:
        for number, one in enumerate(shown):
            axes = panel(drawing, *grid.box(number))
            axes.set_yscale("log")
            colour = ACCENTS[colours[id(one)]]
            for order, cell in enumerate(one.cells):
                share = order / max(1, len(one.cells) - 1)
                for run in cell.runs:
                    xs = [point.examples for point in run.noise]
                    if not xs:
                        continue
                    lows, values, highs = (
                        [min(max(getattr(point.noise, end), low), high) for point in run.noise]
                        for end in ("low", "value", "high")
                    )
                    axes.fill_between(xs, lows, highs, color=colour, alpha=0.12, linewidth=0)
                    axes.plot(xs, values, color=colour, alpha=1 - 0.5 * share, linewidth=2.6 - 1.1 * share, marker=".")
                    axes.annotate(
                        cell_label(cell), (xs[-1], values[-1]), (6, 0), textcoords="offset points", color=INK,
                        weight="bold", size=12, va="center", annotation_clip=False,
                    )  # fmt: skip
            axes.set_ylim(low, high)
            axes.set_xlabel("examples", labelpad=4)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=7))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
            write_title(axes, one.label, colour, "noise scale")
        return render(drawing, frame)
