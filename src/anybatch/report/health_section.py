"""How the runs ran, as a part of the page: what deserves a look in words, and a table of all."""

from collections.abc import Iterator, Sequence

from anybatch.report.document import points, table
from anybatch.report.health import Health
from anybatch.report.wording import UNKNOWN, count, listed, percent, plural, rate

_MUCH_CLIPPED, _MUCH_WAITING = 0.5, 0.05
_NAMED = 5
_COLUMNS = (
    "run",
    "clipped",
    "skipped",
    "loss jumps",
    "data wait",
    "starts",
    "failed saves",
    "memory",
    "rate at phase joins",
)


def health_section(known: Sequence[tuple[str, Health]]) -> str:
    """Of runs by name: what deserves a look, then one row a run; empty where none recorded more than its losses."""
    if not any(health.clipped is not None or health.wait_share is not None for _, health in known):
        return ""
    concerns = [f"{name}: {words}" for name, health in known for words in _concerns(health)]
    found = points(concerns or ["No step was skipped, no loss jumped, and no run waited for its data."])
    rows = [_row(name, health) for name, health in known]
    return f"{found}<details><summary>Every run</summary>{table('Health of all runs', _COLUMNS, rows)}</details>"


def _concerns(health: Health) -> Iterator[str]:
    if health.skipped:
        yield f"{plural(len(health.skipped), 'step')} without a finite gradient, skipped: {_steps(health.skipped)}."
    if health.spikes:
        yield f"the loss jumped {plural(len(health.spikes), 'time')}: {_steps(health.spikes)}."
    if health.failed_saves:
        times = plural(len(health.failed_saves), "checkpoint")
        yield f"{times} could not be saved: {_steps(health.failed_saves)}."
    if health.clipped is not None and health.clipped > _MUCH_CLIPPED * health.steps:
        yield (
            f"{percent(health.clipped / health.steps)} of the steps were clipped: their gradients weigh alike in the "
            "moments, whatever their size; with momentum alone, the bound sets the length of a step."
        )
    if health.wait_share is not None and health.wait_share > _MUCH_WAITING:
        yield f"{percent(health.wait_share)} of the time went to waiting for data."


def _row(name: str, health: Health) -> tuple[str, ...]:
    joins = "; ".join(f"step {count(j.step)}: {rate(j.lr_before)} to {rate(j.lr_after)}" for j in health.joins)
    return (
        name,
        UNKNOWN if health.clipped is None else percent(health.clipped / health.steps),
        count(len(health.skipped)),
        count(len(health.spikes)),
        percent(health.wait_share),
        count(health.starts) if health.starts else UNKNOWN,
        count(len(health.failed_saves)),
        UNKNOWN if health.memory_bytes is None else f"{health.memory_bytes / 2**30:.2f} GiB",
        joins or UNKNOWN,
    )


def _steps(steps: Sequence[int]) -> str:
    shown = [count(step) for step in steps[:_NAMED]]
    more = f" and {count(len(steps) - _NAMED)} more" if len(steps) > _NAMED else ""
    return f"{'step' if len(steps) == 1 else 'steps'} {', '.join(shown) if more else listed(shown)}{more}"
