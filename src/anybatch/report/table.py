"""The table of all runs and the account of how they were made, as HTML; every text of a run folder is escaped here."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from anybatch.names import optimizer_title
from anybatch.report.load import Record, text
from anybatch.report.scores import mean
from anybatch.report.series import Cell, Series
from anybatch.report.svg import accent
from anybatch.report.wording import (
    GUESSED,
    UNKNOWN,
    count,
    duration,
    gap,
    kept,
    listed,
    loss,
    percent,
    rate,
    score,
    times,
)

_COLUMNS = (
    "optimizer", "batch", "factor", "steps", "learning rate", "warm-up", "held-out loss", "gap", "kept", "right", "F1",
    "exact match", "wall time", "examples a second", "skipped steps", "run",
)  # fmt: skip

_BOUND = (
    "<p>≥: the highest learning rate that the log has. The run's peak may lie between two entries; "
    "<code>prepare</code> and the callbacks of <code>anybatch.integrations</code> record it.</p>"
)


def runs_table(series: Sequence[Series], records: Sequence[Record], links: Mapping[Path, Sequence[Record]]) -> str:
    """One row a pretraining run with the scores of its fine-tuning, then fine-tuning runs without a parent here."""
    optimizers = [one.optimizer for one in series]
    rows = []
    for one in series:
        for cell in one.cells:
            for run in cell.runs:
                # A reference that another optimizer ran has its row there.
                if run.optimizer.lower() == one.optimizer:
                    number = accent(one.optimizer, optimizers)
                    rows.append(_row(run, one.label, number, _of_series(run, one, cell), links.get(run.path, [])))
    linked = {child.path for group in links.values() for child in group}
    for run in records:
        if run.task == "questions" and run.path not in linked:
            rows.append(_row(run, f"fine-tuning, {optimizer_title(run.optimizer)}", None, ("", "", ""), [run]))
    tasks = {run.task for run in records}
    right = GUESSED[tasks.pop() if len(tasks) == 1 and tasks <= set(GUESSED) else "pretraining"][0]
    bounds = any(run.lr_is_bound and run.lr for run in records)
    head = "".join(f'<th scope="col">{right if name == "right" else name}</th>' for name in _COLUMNS)
    return (
        '<div class="scroll" role="region" aria-label="All runs" tabindex="0"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{_BOUND if bounds else ''}"
    )


def _of_series(run: Record, one: Series, cell: Cell) -> tuple[str, str, str]:
    """The run's multiple of the reference batch, its gap, and the share of the learning that it kept."""
    factor = "" if cell.factor is None else times(cell.factor)
    if cell is one.reference:
        return factor, "reference", ""
    index = [other.path for other in cell.finished if other.loss is not None]
    if not cell.gaps or run.path not in index:
        return factor, UNKNOWN, UNKNOWN
    place = index.index(run.path)
    return factor, gap(cell.gaps[place]), kept(cell.kept[place]) if cell.kept else UNKNOWN


def _row(run: Record, label: str, number: int | None, placing: tuple[str, str, str], scored: Sequence[Record]) -> str:
    factor, distance, share = placing
    f1, exact_match = (mean([child.final.get(name) for child in scored]) for name in ("f1", "exact_match"))
    outcome = run.state if not run.finished else "diverged" if run.diverged else loss(run.loss)
    dot = "" if number is None else f'<span class="dot accent-{number}"></span>'
    peak = "≥" * (run.lr_is_bound and run.lr is not None) + rate(run.lr)
    cells = (
        count(run.batch), factor, count(run.num_steps), peak, count(run.warmup_steps), outcome, distance, share,
        percent(run.accuracy), score(f1), score(exact_match), duration(run.wall_s), count(run.examples_per_s),
        count(run.skipped_steps),
    )  # fmt: skip
    note = f' title="{escape(run.message)}"' if run.message else ""
    state = "" if run.finished and not run.diverged else ' class="odd"'
    return (
        f'<tr{state}{note}><th scope="row">{dot}{escape(label)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + f'<td class="name" title="{escape(run.name)}">{escape(run.name.rpartition("/")[2])}</td></tr>'
    )


def provenance(records: Sequence[Record]) -> str:
    """Where, with what and by which commands the runs were made, and each run's whole recipe folded away."""
    facts = [
        ("Processor", _distinct(records, "processor")),
        ("Device", _distinct(records, "device")),
        ("Cores", _distinct(records, "cores")),
        ("Threads", _distinct(records, "threads")),
        ("Memory", _distinct(records, "memory_bytes", lambda value: f"{value / 2**30:.1f} GiB")),
        ("Versions", listed(dict.fromkeys(version for run in records for version in _versions(run)))),
        ("Python", _distinct(records, "python")),
        ("Platform", _distinct(records, "platform")),
        ("Git revision", _distinct(records, "git_revision")),
        ("Seed", listed(dict.fromkeys(str(run.seed) for run in records if run.seed is not None))),
        ("First run started", min((text(run.environment["started"]) for run in _with(records, "started")), default="")),
    ]
    entries = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts if value)
    return f"<dl>{entries}</dl>" + "".join(_details(run) for run in records)


def _with(records: Sequence[Record], key: str) -> list[Record]:
    return [run for run in records if run.environment.get(key) is not None]


def _distinct(records: Sequence[Record], key: str, shown: Any = str) -> str:
    values = []
    for run in _with(records, key):
        try:
            values.append(text(shown(run.environment[key])))
        except (TypeError, ValueError):
            values.append(text(run.environment[key]))
    return "; ".join(dict.fromkeys(values))


def _versions(run: Record) -> list[str]:
    versions = run.environment.get("versions")
    return [text(f"{name} {version}") for name, version in versions.items()] if isinstance(versions, dict) else []


def _details(run: Record) -> str:
    command = run.environment.get("command")
    words = " ".join(map(str, command)) if isinstance(command, list) else str(command or "")
    line = f'<p class="command"><code>{escape(_printable(words))}</code></p>' if words else ""
    line += _tracked(run.tracker)
    # A page is made to be passed on: where the study lies on this machine is nobody's business.
    shown = json.dumps(run.recipe, indent=1, ensure_ascii=False).replace(f"{run.path.parents[1]}/", "")
    recipe = escape(_printable(shown))
    return f"<details><summary>{escape(run.name)}</summary>{line}<pre>{recipe}</pre></details>"


def _tracked(tracker: Mapping[str, Any]) -> str:
    """Where else the run is shown: a link to a server, or the name of what lies in the run folder."""
    if not tracker:
        return ""
    url, name = str(tracker.get("url", "")), text(tracker.get("tracker", "tracker"))
    place = Path(str(tracker.get("path", ""))).name
    shown = f'<a href="{escape(url)}">{escape(url)}</a>' if url.startswith(("https://", "http://")) else escape(place)
    return f"<p>{escape(name)}: {shown}</p>"


def _printable(words: str) -> str:
    """A lone surrogate, which JSON can carry, cannot be written as UTF-8."""
    return words.encode("utf-8", "replace").decode("utf-8")
