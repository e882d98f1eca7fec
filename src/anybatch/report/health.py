"""How well the runs ran, whatever they learned: clipped and skipped steps, jumps of the loss, waits, phase joins."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

from anybatch.report.wording import UNKNOWN, count, listed, percent, plural, rate

_MUCH_CLIPPED, _MUCH_WAITING = 0.5, 0.05
_NAMED = 5


@dataclass(frozen=True)
class Join:
    """Where one phase follows another: the first step of the new one, and the learning rates around it."""

    step: int
    lr_before: float | None
    lr_after: float | None


@dataclass(frozen=True)
class Health:
    """What the metrics of one run tell of its course; None where they do not hold it."""

    steps: int
    clipped: int | None
    skipped: tuple[int, ...]
    spikes: tuple[int, ...]
    wait_share: float | None
    starts: int
    joins: tuple[Join, ...]
    memory_bytes: float | None


def observe(events: Sequence[Mapping[str, Any]]) -> Health | None:
    """From the events of metrics.jsonl; None where no step was recorded."""
    steps = [event for event in events if event.get("event") == "train"]
    if not steps:
        return None
    clipped = [event["clipped"] for event in steps if _is_number(event.get("clipped"))]
    waits = [
        (e["data_wait_s"], e["step_s"])
        for e in steps
        if _is_number(e.get("data_wait_s")) and _is_number(e.get("step_s"))
    ]
    taken = sum(step_s for _, step_s in waits)
    memory = [event["memory_bytes"] for event in steps if _is_number(event.get("memory_bytes"))]
    return Health(
        steps=len(steps),
        clipped=sum(map(bool, clipped)) if clipped else None,
        skipped=_where(steps, "skipped"),
        spikes=_where(steps, "spike"),
        wait_share=sum(wait for wait, _ in waits) / taken if taken else None,
        starts=sum(event.get("event") == "start" for event in events),
        joins=tuple(
            Join(_step(after), _rate(before), _rate(after))
            for before, after in pairwise(steps)
            if before.get("phase") != after.get("phase")
        ),
        memory_bytes=max(memory, default=None),
    )


def health_section(known: Sequence[tuple[str, Health]]) -> str:
    """Of runs by name: what deserves a look, then one row a run; empty where none recorded more than its losses."""
    if not any(health.clipped is not None or health.wait_share is not None for _, health in known):
        return ""
    concerns = [f"{name}: {words}" for name, health in known for words in _concerns(health)]
    points = concerns or ["No step was skipped, no loss jumped, and no run waited for its data."]
    items = "".join(f"<li>{escape(point)}</li>" for point in points)
    names = ("run", "clipped", "skipped", "loss jumps", "data wait", "starts", "memory", "rate at phase joins")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = "".join(_row(name, health) for name, health in known)
    return (
        f'<div class="findings"><ul>{items}</ul></div>'
        '<details><summary>Every run</summary><div class="scroll" role="region" aria-label="Health of all runs" '
        f'tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></details>'
    )


def _concerns(health: Health) -> Iterator[str]:
    if health.skipped:
        yield f"{plural(len(health.skipped), 'step')} without a finite gradient, skipped: {_steps(health.skipped)}."
    if health.spikes:
        yield f"the loss jumped {plural(len(health.spikes), 'time')}: {_steps(health.spikes)}."
    if health.clipped is not None and health.clipped > _MUCH_CLIPPED * health.steps:
        yield (
            f"{percent(health.clipped / health.steps)} of the steps were clipped: the bound, not the gradient, set "
            "their length, and the rate means less than it says."
        )
    if health.wait_share is not None and health.wait_share > _MUCH_WAITING:
        yield f"{percent(health.wait_share)} of the time went to waiting for data."


def _row(name: str, health: Health) -> str:
    clipped = UNKNOWN if health.clipped is None else percent(health.clipped / health.steps)
    memory = UNKNOWN if health.memory_bytes is None else f"{health.memory_bytes / 2**30:.2f} GiB"
    joins = "; ".join(f"step {count(j.step)}: {rate(j.lr_before)} to {rate(j.lr_after)}" for j in health.joins)
    cells = (
        clipped, count(len(health.skipped)), count(len(health.spikes)), percent(health.wait_share),
        count(health.starts) if health.starts else UNKNOWN, memory, joins or UNKNOWN,
    )  # fmt: skip
    row = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f'<tr><th scope="row" title="{escape(name)}">{escape(name)}</th>{row}</tr>'


def _steps(steps: Sequence[int]) -> str:
    shown = [count(step) for step in steps[:_NAMED]]
    more = f" and {count(len(steps) - _NAMED)} more" if len(steps) > _NAMED else ""
    return f"{'step' if len(steps) == 1 else 'steps'} {', '.join(shown) if more else listed(shown)}{more}"


def _where(steps: Sequence[Mapping[str, Any]], key: str) -> tuple[int, ...]:
    return tuple(_step(event) for event in steps if _is_number(event.get(key)) and event[key])


def _step(event: Mapping[str, Any]) -> int:
    return int(event["step"]) if _is_number(event.get("step")) else 0


def _rate(event: Mapping[str, Any]) -> float | None:
    return event["lr"] if _is_number(event.get("lr")) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and value == value and abs(value) != float("inf")
