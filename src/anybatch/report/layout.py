"""The places of a figure's panels, and the axes, names and colors that all figures share."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from anybatch.comparison.cell import Cell
from anybatch.comparison.grid import Series
from anybatch.comparison.wording import count, short, times
from anybatch.report.document import Figure
from anybatch.report.svg import ACCENTS, MUTED, PAPER, Frame, accent, canvas, panel, render, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

Item = TypeVar("Item")
HALO = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 1.0}
_TITLE_LETTERS = 30


@dataclass(frozen=True)
class Grid:
    """Equal panels in rows, measured in CSS pixels."""

    width: int
    columns: int
    rows: int
    panel_height: int
    left: int = 44
    right: int = 44
    top: int = 34
    bottom: int = 56

    @property
    def height(self) -> int:
        return self.rows * (self.top + self.panel_height + self.bottom)

    def box(self, number: int) -> tuple[float, float, float, float]:
        row, column = divmod(number, self.columns)
        cell = self.width / self.columns
        top = row * (self.top + self.panel_height + self.bottom) + self.top
        return column * cell + self.left, top, cell - self.left - self.right, self.panel_height


def paneled(
    key: str,
    title: str,
    caption: str,
    items: Sequence[Item],
    draw: Callable[["Axes", Item], None],
    height: int,
    description: str = "",
    most: int = 3,
    narrow: Mapping[str, int] | None = None,
    **margins: int,
) -> Figure:
    """Returns a figure of one panel for each item, at most `most` in a row; on a narrow page one below the other.

    Args:
        height: that of a panel; with `margins` the fields of `Grid`, of which a narrow page has those of `narrow`.
    """

    def drawn(frame: Frame) -> str:
        columns = 1 if frame.narrow else min(len(items), most)
        sizes = {"panel_height": height, "bottom": 52, **margins, **((frame.narrow and narrow) or {})}
        grid = Grid(frame.width, columns, -(-len(items) // columns), **sizes)
        with canvas(frame.width, grid.height) as figure:
            for number, item in enumerate(items):
                draw(panel(figure, *grid.box(number)), item)
            return render(figure, frame)

    return Figure(key, title, caption, drawn, description)


def xy(points: Iterable[tuple[float, float | None]]) -> tuple[list[float], list[float]]:
    """Returns the points' places as matplotlib takes them; a line is broken at None."""
    points = list(points)
    return [x for x, _ in points], [math.nan if y is None else y for _, y in points]


def write(axes: "Axes", words: str, at: tuple[float, float], shift: tuple[float, float], **style: Any) -> None:
    """Writes `words` at a place in the data, moved by `shift` pixels."""
    axes.annotate(words, at, shift, textcoords="offset points", **style)


def cell_label(cell: Cell) -> str:
    """Returns a cell's short name on a figure: its factor, or its batch if there is no reference."""
    label = f"batch {count(cell.batch)}" if cell.factor is None else times(cell.factor)
    return f"{cell.owner} {label}" if cell.owner else label


def named(one: Series, cell: Cell) -> str:
    """Returns a cell's name with that of its series, or of the optimizer that lent it."""
    return cell_label(cell) if cell.owner else f"{one.label} {cell_label(cell)}"


def accents(series: Sequence[Series]) -> dict[str, int]:
    """Returns the number of each series' color and marker, by its label."""
    optimizers = [one.optimizer for one in series]
    return {one.label: accent(one.optimizer, optimizers) for one in series}


def colors(series: Sequence[Series]) -> dict[str, str]:
    return {label: ACCENTS[number] for label, number in accents(series).items()}


def write_title(axes: "Axes", text: str, color: str, note: str = "") -> None:
    axes.text(0, 1.03, text, transform=axes.transAxes, color=color, weight="bold", size=14, va="bottom")
    if note and len(text) + len(note) <= _TITLE_LETTERS:
        axes.text(1, 1.03, note, transform=axes.transAxes, color=MUTED, ha="right", va="bottom")


def weight(order: int, total: int) -> dict[str, Any]:
    """Returns a line's weight: the line of the smallest batch is the strongest."""
    share = order / max(1, total - 1)
    return {"alpha": 1 - 0.5 * share, "linewidth": 2.6 - 1.1 * share}


def batch_axis(axes: "Axes", batches: Sequence[int]) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log", base=2)
    axes.set_xlim(batches[0] / 1.45, batches[-1] * 1.45)
    axes.set_xticks(list(batches), [count(batch) for batch in batches])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("global batch size", labelpad=4)


def logarithmic(
    axis: "Axis", subs: Sequence[float] = (1.0, 2.0, 5.0), numticks: int = 7, shown: Callable[[float], str] = short
) -> None:
    """Sets few ticks on a logarithmic axis, without the small ones between."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=tuple(subs), numticks=numticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda number, _: shown(number))


def linear(axis: "Axis", numticks: int = 5, shown: Callable[[float], str] | None = None) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(numticks))
    if shown is not None:
        axis.set_major_formatter(lambda number, _: shown(number))


def name_ends(axes: "Axes", ends: Iterable[tuple[float, float, str, str]], apart: bool = True) -> None:
    """Writes the name (x, y, name, color) of each line at its end, within the panel; moves close ones apart."""
    ends = list(ends)
    low, high = axes.get_ylim()
    bottom = float(axes.transData.transform((1, low))[1])
    heights = [float(axes.transData.transform((1, min(max(y, low), high)))[1]) - bottom for _, y, _, _ in ends]
    placed = spread(heights, 14, 0, axes.bbox.height) if apart else heights
    for (x, y, name, color), height, free in zip(ends, heights, placed, strict=True):
        place = (x, min(max(y, low), high))
        style = {"weight": "bold", "size": 12, "va": "center", "annotation_clip": False, "bbox": HALO}
        write(axes, name, place, (7, free - height), color=color, **style)


def band(axes: "Axes", one: Series, color: str) -> None:
    """Draws the scores at which quality holds."""
    if one.judged and one.reference and one.reference.score is not None and one.bound is not None:
        axes.axhspan(one.reference.score, one.bound, color=color, alpha=0.14, linewidth=0)


def window(values: Sequence[float], higher: bool, least: float) -> tuple[float, float]:
    """Returns the range to show: values far on the wrong side of the median would flatten the rest.

    Args:
        least: values within this share of the best one are always shown.
    """
    if not values:  # every run diverged or failed
        return 0.0, 1.0
    ordered = sorted(values, reverse=higher)
    best, middle = ordered[0], ordered[len(ordered) // 2]
    reach = max(4 * abs(middle - best), abs(best) * least) or 1.0
    bound = [value for value in ordered if abs(value - best) <= reach][-1]
    room = 0.12 * (abs(bound - best) or abs(best) * 0.05 or 1.0)
    return min(best, bound) - room, max(best, bound) + room
