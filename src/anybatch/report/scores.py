"""Fine-tuning runs beside the pretraining run each started from: F1 and exact match by optimizer and batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from anybatch.report.load import Record
from anybatch.report.series import Series


@dataclass(frozen=True)
class Score:
    """Mean scores, in per cent, of the runs that were fine-tuned from one cell; None where none is finite."""

    label: str
    optimizer: str
    batch: int
    f1: float | None
    exact_match: float | None


def children(records: Sequence[Record]) -> Mapping[Path, list[Record]]:
    """The fine-tuning runs of each pretraining run, by the latter's folder."""
    folders = {run.path: run for run in records if run.task != "questions"}
    found: dict[Path, list[Record]] = {}
    for run in records:
        if run.task == "questions" and (parent := _parent(run, folders)) is not None:
            found.setdefault(parent, []).append(run)
    return found


def _parent(run: Record, folders: Mapping[Path, Record]) -> Path | None:
    """`result.json` gives the parent relative to the run, to a folder above it, or to where the run was started."""
    if run.parent is None:
        return None
    for start in (run.path, *run.path.parents, Path.cwd()):
        place = (start / run.parent).resolve()
        for folder in (place, *place.parents):
            if folder in folders:
                return folder
    # Run folders may have been copied elsewhere: a name that only one of them has still tells.
    named = [folder for folder in folders if folder.name == run.parent.name]
    return named[0] if len(named) == 1 else None


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the known values; None where there are none."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def by_cell(series: Sequence[Series], links: Mapping[Path, list[Record]]) -> list[Score]:
    """One score a cell that was fine-tuned, in the order of batch, then optimizer."""
    found = []
    for one in series:
        for cell in one.cells:
            runs = [child for run in cell.runs for child in links.get(run.path, []) if child.finished]
            if runs:
                f1, exact_match = (mean([run.final.get(name) for run in runs]) for name in ("f1", "exact_match"))
                found.append(Score(one.label, one.optimizer, cell.batch, f1, exact_match))
    return sorted(found, key=lambda score: score.batch)
