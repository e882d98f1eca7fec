"""How the runs ran: what deserves attention, the health of each run, and its phases."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any

from anybatch.comparison.grid import Comparison
from anybatch.comparison.rows import Health, Point, Row
from anybatch.comparison.wording import UNKNOWN, count, listed, loss, percent, plural, rate
from anybatch.report.document import Column, Section, Table, points

_MUCH_CLIPPED, _MUCH_WAITING = 0.5, 0.05
_NAMED = 5
_CARRIED = {"keep": "everything", "reset_step": "moments, not their step", "new": "nothing"}
_SIZES = {"sequence_length": "tokens", "image_size": "pixels"}


def health(comparison: Comparison) -> Section | None:
    """Shows what deserves attention, then one row a run; None if no run recorded more than its losses."""
    known = [(run, run.health) for run in comparison.rows if run.health and run.part == "reported"]
    if not any(found.clipped is not None or found.wait_share is not None for _, found in known):
        return None
    concerns = [f"{run.name}: {words}" for run, found in known for words in _concerns(found)]
    columns = (
        Column("run", lambda item: item[0].name),
        Column("clipped", lambda item: None if item[1].clipped is None else item[1].clipped / item[1].steps,
               percent),
        Column("skipped", lambda item: len(item[1].skipped)),
        Column("loss jumps", lambda item: len(item[1].spikes)),
        Column("data wait", lambda item: item[1].wait_share, percent),
        Column("starts", lambda item: item[1].starts or None),
        Column("failed saves", lambda item: len(item[1].failed_saves)),
        Column("memory", lambda item: item[1].memory_bytes,
               lambda size: UNKNOWN if size is None else f"{size / 2**30:.2f} GiB"),
        Column("learning rate at phase joins", lambda item: _joins(item[0])),
    )  # fmt: skip
    table = Table("", "Health of all runs", columns, known, folded="Every run")
    sound = "No step was skipped, no loss jumped, and no run waited for its data."
    return Section("health", "How the runs ran", [points(concerns or [sound]), table])


def _joins(run: Row) -> str:
    rates = ((after.step, rate(before.lr), rate(after.lr)) for _, before, after in switches(run))
    return "; ".join(f"step {count(step)}: {before} to {after}" for step, before, after in rates)


def _concerns(found: Health) -> Iterator[str]:
    if found.skipped:
        yield f"{plural(len(found.skipped), 'step')} without a finite gradient, skipped: {_steps(found.skipped)}."
    if found.spikes:
        yield f"the loss jumped {plural(len(found.spikes), 'time')}: {_steps(found.spikes)}."
    if found.failed_saves:
        times = plural(len(found.failed_saves), "checkpoint")
        yield f"{times} could not be saved: {_steps(found.failed_saves)}."
    if found.clipped is not None and found.clipped > _MUCH_CLIPPED * found.steps:
        yield (
            f"{percent(found.clipped / found.steps)} of the steps were clipped: their gradients have equal weight in "
            "the moments, whatever their size. With momentum only, the bound sets the length of a step."
        )
    if found.wait_share is not None and found.wait_share > _MUCH_WAITING:
        yield f"{percent(found.wait_share)} of the time went to waiting for data."


def _steps(steps: Sequence[int]) -> str:
    shown = [count(step) for step in steps[:_NAMED]]
    more = f" and {count(len(steps) - _NAMED)} more" if len(steps) > _NAMED else ""
    return f"{'step' if len(steps) == 1 else 'steps'} {', '.join(shown) if more else listed(shown)}{more}"


def switches(run: Row) -> list[tuple[int, Point, Point]]:
    """Returns for each phase but the first its number, counted from 0, the last step before it and its first."""
    pairs = pairwise(_stretches(run))
    return [(number, before[-1], after[0]) for (_, before), (number, after) in pairs]


def phases(comparison: Comparison) -> Section | None:
    """Shows a row for each begun phase of runs with several: steps, learning rates, and what was carried over."""
    reported = [run for run in comparison.rows if run.part == "reported" and len(_declared(run)) > 1]
    rows = [row for run in reported for row in _rows(run)]
    names = (
        "run",
        "phase",
        "batch",
        "size",
        "steps",
        "warm-up",
        "highest learning rate",
        "at its end",
        "optimizer keeps",
    )
    columns = [Column(name, itemgetter(k)) for k, name in enumerate(names)]
    table = Table("", "Phases of the runs", columns, rows)
    return Section("phases", "The phases of a run", [table]) if rows else None


def _rows(run: Row) -> list[tuple[object, ...]]:
    declared = _declared(run)
    rows: list[tuple[object, ...]] = []
    for number, taken in _stretches(run):
        about = declared[number] if number < len(declared) else {}
        size = next((f"{count(about[name])} {unit}" for name, unit in _SIZES.items() if about.get(name)), None)
        rates = [point.lr or 0.0 for point in taken]
        last = [point.loss for point in run.evals if point.step <= taken[-1].step and point.loss is not None]
        rows.append(
            (
                run.name,
                number + 1,
                about.get("batch_size"),
                size,
                taken[-1].step - taken[0].step + 1,
                rates.index(max(rates)),
                rate(max(rates)),
                f"loss {loss(last[-1])}" if last else None,
                _CARRIED.get(str(about.get("carry_over"))) if number else None,
            )
        )
    return rows


def _declared(run: Row) -> list[Mapping[str, Any]]:
    found = run.recipe.get("phases")
    return [phase for phase in found if isinstance(phase, dict)] if isinstance(found, list) else []


def _stretches(run: Row) -> list[tuple[int, list[Point]]]:
    """Returns the training steps of each phase, in order."""
    known = [point for point in run.trains if point.phase is not None]
    return [(number or 0, list(points)) for number, points in groupby(known, key=lambda point: point.phase)]
