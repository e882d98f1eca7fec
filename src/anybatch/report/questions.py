"""Fine-tuning runs beside their pretraining runs: F1 and exact match by optimizer and batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from anybatch.comparison.grid import Comparison, Series
from anybatch.comparison.rows import Row
from anybatch.comparison.statistics import mean
from anybatch.comparison.wording import score, short
from anybatch.report.document import Section
from anybatch.report.layout import accents, paneled, write, write_title
from anybatch.report.svg import ACCENTS, GRID, INK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TINY = 20_000_000


@dataclass(frozen=True)
class Score:
    """Mean scores, in per cent, of the runs that were fine-tuned from one cell; None if none is finite."""

    label: str
    batch: int
    f1: float | None
    exact_match: float | None


def children(rows: Sequence[Row]) -> Mapping[Path, list[Row]]:
    """Returns the fine-tuning runs of each pretraining run, by the latter's folder."""
    folders = {run.path: run for run in rows if run.task != "questions" and run.path}
    found: dict[Path, list[Row]] = {}
    for run in rows:
        if run.task == "questions" and (parent := _parent(run, folders)) is not None:
            found.setdefault(parent, []).append(run)
    return found


def _parent(run: Row, folders: Mapping[Path, Row]) -> Path | None:
    """Finds the parent: `result.json` names it relative to the run, a folder above, or the starting folder."""
    if run.parent is None or run.path is None:
        return None
    for start in (run.path, *run.path.parents, Path.cwd()):
        place = (start / run.parent).resolve()
        for folder in (place, *place.parents):
            if folder in folders:
                return folder
    # Run folders may have been copied: a name that only one of them has is enough.
    named = [folder for folder in folders if folder.name == run.parent.name]
    return named[0] if len(named) == 1 else None


def by_cell(series: Sequence[Series], links: Mapping[Path, list[Row]]) -> list[Score]:
    """Returns one score for each fine-tuned cell, in the order of batch, then optimizer."""
    found = []
    for one in series:
        for cell in one.cells:
            runs = [child for run in cell.runs if run.path for child in links.get(run.path, []) if child.finished]
            if runs:
                f1, exact_match = (mean([run.final.get(name) for run in runs]) for name in ("f1", "exact_match"))
                found.append(Score(one.label, cell.batch, f1, exact_match))
    return sorted(found, key=lambda one: one.batch)


def questions(comparison: Comparison) -> Section | None:
    """The scores of fine-tuning by optimizer and batch of the pretraining."""
    found = by_cell(comparison.series, children(comparison.rows))
    if not found:
        return None
    known = [one.f1 for one in found if one.f1 is not None]
    parameters = max((run.parameters for run in comparison.rows if run.parameters), default=None)
    span = f"F1 lies between {score(min(known))} and {score(max(known))}" if known else "no run has an F1 score"
    caption = f"Each pretrained model after its fine-tuning, by optimizer and batch of its pretraining: {span}."
    if parameters and parameters < _TINY:
        caption += (
            f" The model is tiny ({short(parameters)} parameters): scores this low are close to guessing, and "
            "differences of a few points mean nothing. The picture shows that the path works, not how well."
        )
    described = "; ".join(
        f"{one.label}, batch {one.batch}: F1 {score(one.f1)}, exact match {score(one.exact_match)}" for one in found
    )
    numbers, batches = accents(comparison.series), sorted({one.batch for one in found})
    height = 24 * len(found) + 10 * len(batches)
    left = min(300, max(round(7.3 * len(f"{one.label} {one.batch}")) + 16 for one in found))
    places = [24 * k + 10 * batches.index(one.batch) for k, one in enumerate(found)]

    def draw(axes: "Axes", item: tuple[str, Sequence[float | None]]) -> None:
        name, values = item
        axes.grid(False)
        axes.set_xlim(0, max([v for v in values if v is not None], default=0) or 1)
        axes.set_ylim(height, -12)
        axes.set_xticks([])
        axes.set_yticks(places, [f"{one.label} {one.batch}" for one in found], color=MUTED)
        axes.spines["bottom"].set_visible(False)
        axes.axvline(0, color=GRID)
        for one, value, place in zip(found, values, places, strict=True):
            axes.barh(place, value or 0, height=17, color=ACCENTS[numbers[one.label]], alpha=0.85)
            text = "no score" if value is None else score(value)
            write(axes, text, (value or 0, place), (6, 0), va="center", weight="bold")
        write_title(axes, name, INK, "per cent")

    items = [("F1", [one.f1 for one in found]), ("exact match", [one.exact_match for one in found])]
    figure = paneled(
        "scores", "F1 and exact match by batch and optimizer", caption, items, draw, height, described, most=2,
        left=left, right=44, bottom=16, narrow={"left": min(220, left)},
    )  # fmt: skip
    return Section("questions", "Questions answered after fine-tuning", [figure])
