"""Where the panels of a figure stand, and what series and cells are called and coloured in all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anybatch.report.series import Cell, Series
from anybatch.report.svg import MUTED, accent
from anybatch.report.wording import count, times

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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


def cell_label(cell: Cell) -> str:
    """A cell's short name on a figure: its factor, or its batch where there is no reference."""
    return f"batch {count(cell.batch)}" if cell.factor is None else times(cell.factor)


def accents(series: Sequence[Series]) -> dict[int, int]:
    optimizers = [one.optimizer for one in series]
    return {id(one): accent(one.optimizer, optimizers) for one in series}


def write_title(axes: "Axes", text: str, colour: str, note: str = "") -> None:
    axes.text(0, 1.03, text, transform=axes.transAxes, color=colour, weight="bold", size=14, va="bottom")
    if note and len(text) + len(note) <= _TITLE_LETTERS:
        axes.text(1, 1.03, note, transform=axes.transAxes, color=MUTED, ha="right", va="bottom")
