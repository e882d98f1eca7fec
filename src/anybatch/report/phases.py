"""The phases of runs that have several: batch and length, steps, rates, and what the optimizer carried over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

from anybatch.report.document import table
from anybatch.report.load import Point, Record
from anybatch.report.wording import UNKNOWN, count, loss, rate

_COLUMNS = ("run", "phase", "batch", "size", "steps", "warm-up", "highest rate", "at its end", "optimizer keeps")
_CARRIED = {"keep": "everything", "reset_step": "moments, not their step", "new": "nothing"}
_SIZES = {"sequence_length": "tokens", "image_size": "pixels"}


@dataclass(frozen=True)
class Switch:
    """Where a run went over to phase `phase`, counted from 0: behind this step, and these examples."""

    phase: int
    step: int
    examples: int


def switches(run: Record) -> list[Switch]:
    """Where each phase but the first begins, as far as the run has come."""
    stretches = _stretches(run)
    return [Switch(number, before[-1].step, before[-1].examples) for (_, before), (number, _) in pairwise(stretches)]


def phases_table(records: Sequence[Record]) -> str:
    """A row for each phase that was begun, of the runs that have several; empty where none has."""
    rows = [row for run in records if len(_declared(run)) > 1 for row in _rows(run)]
    return table("Phases of the runs", _COLUMNS, rows) if rows else ""


def _rows(run: Record) -> list[tuple[str, ...]]:
    declared = _declared(run)
    rows: list[tuple[str, ...]] = []
    for number, points in _stretches(run):
        about = declared[number] if number < len(declared) else {}
        size = next((f"{count(about[name])} {unit}" for name, unit in _SIZES.items() if about.get(name)), UNKNOWN)
        rates = [point.lr or 0.0 for point in points]
        last = [point.loss for point in run.evals if point.step <= points[-1].step and point.loss is not None]
        rows.append(
            (
                run.name,
                str(number + 1),
                count(about.get("batch_size")),
                size,
                count(points[-1].step - points[0].step + 1),
                count(rates.index(max(rates))),
                rate(max(rates)),
                f"loss {loss(last[-1])}" if last else UNKNOWN,
                _CARRIED.get(str(about.get("carry_over")), UNKNOWN) if number else "",
            )
        )
    return rows


def _declared(run: Record) -> list[Mapping[str, Any]]:
    found = run.recipe.get("phases")
    return [phase for phase in found if isinstance(phase, dict)] if isinstance(found, list) else []


def _stretches(run: Record) -> list[tuple[int, list[Point]]]:
    """The training steps of each phase, in order."""
    known = [point for point in run.trains if point.phase is not None]
    return [(number or 0, list(points)) for number, points in groupby(known, key=lambda point: point.phase)]
