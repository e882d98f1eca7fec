"""The tables of a page: the results of each contender, who is better, every run, and how the runs were made."""

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from anybatch.comparison.cell import LR, Cell
from anybatch.comparison.grid import Comparison, Scaling, Series
from anybatch.comparison.rows import Row
from anybatch.comparison.statistics import Interval, mean
from anybatch.comparison.wording import (
    GUESSED,
    UNKNOWN,
    count,
    duration,
    gap,
    kept,
    listed,
    loss,
    percent,
    plural,
    rate,
    score,
    text,
    times,
)
from anybatch.names import optimizer_title
from anybatch.numbers import finite
from anybatch.report.document import Column, Section, Table, fold, points
from anybatch.report.layout import accents
from anybatch.report.questions import children

_ABOUT = {
    "processor": "Processor",
    "device": "Device",
    "cores": "Cores",
    "threads": "Threads",
    "memory_bytes": "Memory",
    "versions": "Versions",
    "python": "Python",
    "platform": "Platform",
    "git_revision": "Git revision",
    "seed": "Seed",
    "started": "First run started",
}
_WHY = {
    "learned nothing": "ended within 2 % of the untrained model",
    "diverged": "no finite loss, or twice the untrained model's",
    "not run": "the study is not finished",
}


def glance(comparison: Comparison) -> Section | None:
    """A row for each optimizer and a column for each batch, like the paper's tables."""
    if not comparison.repeated or len(comparison.contenders) < 2:
        return None
    heading = "At a glance: optimizers by batch"
    columns = [Column("optimizer", lambda one: one.label)]
    for batch in comparison.batches:
        found = comparison.best(batch)
        best = found[1].score if found else None
        columns.append(Column(f"batch {batch:,}", partial(_spread, batch, best)))
    note = "Means over the seeds, ± half the 95 % interval, uncut; an asterisk: the best of its batch."
    return _section("glance", heading, columns, comparison.contenders, note)


def _section(key: str, heading: str, columns: Sequence[Column], items: Sequence[Any], note: str = "") -> Section | None:
    return Section(f"table-{key}", heading, [Table(key, heading, columns, items, note)]) if items else None


def _spread(batch: int, best: float | None, one: Series) -> str:
    cell = one.at(batch)
    if cell is None or cell.final is None:
        return "" if cell is None else "diverged" if cell.diverged else "failed" if cell.failed else ""
    mean, low, high = cell.final.mean, cell.final.low, cell.final.high
    # One end may be cut.
    half = "" if low is None or high is None else f" ± {max(high - mean, mean - low):.2g}"
    return f"{mean:.4g}{half}{' *' if mean == best else ''}"


def _ends(name: str, value: Any, low: str, high: str) -> list[Column]:
    """Returns columns for the mean and the ends of an interval, or None."""

    def column(title: str, end: str) -> Column:
        return Column(title, lambda item: getattr(value(item), end, None))

    return [column(name, "mean"), column(low, "low"), column(high, "high")]


def results(comparison: Comparison) -> Section | None:
    """The results of each contender at each batch."""
    if not comparison.repeated:
        return None
    items = [(one, cell) for batch in comparison.batches for one in comparison.series if (cell := one.at(batch))]
    metric = comparison.metric.name

    def setting(name: str) -> Column:
        return Column(name.rpartition(".")[2], lambda item: item[1].settings.get(name))

    columns = [
        Column("optimizer", lambda item: item[0].label),
        Column("batch", lambda item: item[1].batch),
        Column("steps", lambda item: item[1].num_steps),
        Column("rate", lambda item: item[1].runs[0].lr),
        Column("warm-up steps", lambda item: item[1].runs[0].warmup_steps),
        *map(setting, sorted({name for _, cell in items for name in cell.settings} - {LR})),
        *_ends(metric, lambda item: item[1].final, f"{metric} from", f"{metric} to"),
        Column("seeds", lambda item: len(item[1].runs)),
        Column("lost", lambda item: item[1].diverged + item[1].failed),
    ]
    note = (
        "From and to bound the 95 % interval of the mean over seeds, cut at the metric's limits. Lost counts the runs "
        "that diverged or failed; no mean includes them."
    )
    if comparison.is_study:
        columns.append(Column("tuning runs", lambda item: len(item[1].tuning)))
    if comparison.metric.target is not None:
        columns.append(Column("reached target", lambda item: len(item[1].reached)))
        columns += _ends("steps to target", lambda item: item[1].steps, "steps from", "steps to")
        note += " Reached target counts the seeds that did; steps are given if all did."
    return _section("results", "What each optimizer reached", columns, items, note)


def differences(comparison: Comparison) -> Section | None:
    """Each pair of contenders at each batch."""
    note = (
        "Runs with the same seed are compared. Above zero, the first one of the pair is better (lower, if the metric "
        "is a loss). Fewer than 5 pairs have no p-value."
    )
    columns = [
        Column("pair", lambda each: f"{each.first}, {each.second}"),
        Column("batch", lambda each: each.batch),
        *_ends("lead of the first", lambda each: each.interval, "from", "to"),
        Column("pairs", lambda each: each.interval.count if each.interval else 0),
        Column("p", lambda each: each.p_value),
    ]
    items = comparison.differences if comparison.repeated else []
    return _section("differences", "Seed by seed: who is better, at each batch", columns, items, note)


def scaling(comparison: Comparison) -> Section | None:
    """Examples to the target: the fitted law of each contender."""
    columns = [
        Column("optimizer", lambda found: found.entrant),
        *_ends("E_min", lambda found: found.fit and found.fit.e_min, "E_min from", "E_min to"),
        *_ends("B_crit", _unbounded, "B_crit from", "B_crit to"),
        Column("batches fitted", lambda found: len(found.fitted)),
    ]
    heading = "Examples to the target: E = E_min (1 + B/B_crit)"
    note = "Examples to the target over all batches at which every seed reached it."
    return _section("scaling", heading, columns, comparison.scaling, note)


def _unbounded(found: Scaling) -> Interval | None:
    """Returns the critical batch and its interval, whose open ends are infinite."""
    if found.fit is None:
        return None
    b_crit = found.fit.b_crit
    return Interval(b_crit.mean, b_crit.low or 0.0, math.inf if b_crit.high is None else b_crit.high, b_crit.count)


def failures(comparison: Comparison) -> Section | None:
    """Failed trials of a study, and why."""
    lost = [run for run in comparison.rows if comparison.is_study and run.outcome != "finished"]
    columns = [
        Column("trial", lambda run: run.name),
        Column("state", lambda run: run.outcome),
        Column("why", lambda run: run.message or _WHY.get(run.outcome, "")),
        Column("settings", _settings),
    ]
    return _section("failures", "Runs that failed, diverged, learned nothing or are missing", columns, lost)


def _settings(run: Row) -> str:
    return ", ".join(f"{name} {rate(value)}" for name, value in run.settings.items()) or "scaled by the rule"


def runs(comparison: Comparison) -> Section:
    """Every run, one row each, with its fine-tuning's scores; fine-tuning runs without a parent here come last."""
    links = children(comparison.rows)
    items: list[tuple[Row, Series | None, Cell | None]] = [
        (run, one, cell)
        for one in comparison.series
        for cell in one.cells
        for run in cell.runs
        # A reference that another optimizer ran has its row there.
        if run.optimizer.lower() == one.optimizer
    ]
    placed = {run.path for run, *_ in items} | {child.path for group in links.values() for child in group}
    items += [(run, None, None) for run in comparison.rows if run.path not in placed]
    numbers = accents(comparison.series)
    tasks = {run.task for run in comparison.rows}
    right = GUESSED[tasks.pop() if len(tasks) == 1 and tasks <= set(GUESSED) else "pretraining"][0]

    def fine_tuned(item: tuple[Row, Any, Any], name: str) -> float | None:
        run, one, _ = item
        scored = [run] if one is None else links.get(run.path, []) if run.path else []
        return mean([child.final.get(name) for child in scored])

    def outcome(item: tuple[Row, Any, Any]) -> str:
        run = item[0]
        has_loss = run.finished and not run.diverged
        return loss(run.score if run.score is not None else run.final.get("loss")) if has_loss else run.outcome

    def held(item: tuple[Row, Series | None, Cell | None], name: str) -> object:
        """Returns the run's gap, or the kept share of the learning."""
        run, one, cell = item
        if one is None or cell is None:
            return None
        if cell is one.reference:
            return "reference" if name == "gaps" else None
        return getattr(cell, name).get(run.name)

    columns = [
        Column("optimizer", lambda item: item[1].label if item[1] else
               f"fine-tuning, {optimizer_title(item[0].optimizer)}"),
        Column("batch", lambda item: item[0].batch, count),
        Column("factor", lambda item: item[2] and item[2].factor, lambda f: "" if f is None else times(f)),
        Column("steps", lambda item: item[0].num_steps, count),
        Column("learning rate", lambda item: "≥" * (item[0].lr_is_bound and item[0].lr is not None) + rate(item[0].lr)),
        Column("warm-up", lambda item: item[0].warmup_steps, count),
        Column(comparison.metric.name, outcome),
        Column("gap", lambda item: held(item, "gaps"), lambda value: value if isinstance(value, str) else gap(value)),
        Column("kept", lambda item: held(item, "kept"), lambda value: UNKNOWN if value is None else kept(value)),
        Column(right, lambda item: item[0].accuracy, percent),
        Column("F1", lambda item: fine_tuned(item, "f1"), score),
        Column("exact match", lambda item: fine_tuned(item, "exact_match"), score),
        Column("wall time", lambda item: item[0].wall_s, duration),
        Column("examples a second", lambda item: item[0].examples_per_s, count),
        Column("skipped steps", lambda item: item[0].skipped_steps, count),
        Column("run", lambda item: item[0].name.rpartition("/")[2]),
    ]  # fmt: skip
    bound = (
        "≥: the highest learning rate that the log has. The run's peak may lie between two entries; `prepare` and the "
        "callbacks of anybatch.integrations record it."
    )
    table = Table(
        "", "All runs", columns, items, bound if any(run.lr_is_bound and run.lr for run in comparison.rows) else "",
        accent=lambda item: numbers[item[1].label] if item[1] else None,
        odd=lambda item: "" if item[0].finished and not item[0].diverged else item[0].message or item[0].outcome,
    )  # fmt: skip
    return Section("runs", "Every run", [table])


def trials(comparison: Comparison) -> Section:
    """Every trial of a study."""
    columns = [
        Column("trial", lambda run: run.name),
        Column("optimizer", lambda run: run.entrant),
        Column("batch", lambda run: run.batch),
        Column("part", lambda run: run.part),
        Column("seed", lambda run: str(run.seed)),
        Column("state", lambda run: run.outcome),
        Column(comparison.metric.name, lambda run: run.score),
        Column("settings", _settings),
    ]
    table = Table("trials", "Every trial", columns, comparison.rows, folded=f"{len(comparison.rows)} trials")
    return Section("table-trials", "Every trial", [table])


def made(comparison: Comparison) -> Section:
    """When, where, with what and by which commands the runs were made."""
    if comparison.is_study:
        about = comparison.environment
        machine = f"{about['processor']}, {plural(about['cores'], 'core')}, {about['device']}"
        versions = ", ".join(f"{n} {about['versions'][n]}" for n in ("anybatch", "torch") if n in about["versions"])
        return Section("made", "How it was made", [points([f"{about['started'][:10]}, {versions}, on {machine}."])])
    rows = comparison.rows
    found = {name: [_known(run, name) for run in rows if run.environment.get(name) is not None] for name in _ABOUT}
    found["versions"] = [listed(dict.fromkeys(version for run in rows for version in _versions(run)))]
    found["seed"] = [listed(dict.fromkeys(str(run.seed) for run in rows if run.seed is not None))]
    found["started"] = sorted(found["started"])[:1]
    entries = "".join(
        f"<dt>{title}</dt><dd>{escape(value)}</dd>"
        for name, title in _ABOUT.items()
        if (value := "; ".join(dict.fromkeys(found[name])))
    )
    return Section("made", "How it was made", [f"<dl>{entries}</dl>", *(_details(run) for run in rows)])


def _known(run: Row, name: str) -> str:
    value = run.environment[name]
    size = finite(value) if name == "memory_bytes" else None
    return text(value if size is None else f"{size / 2**30:.1f} GiB")


def _versions(run: Row) -> list[str]:
    versions = run.environment.get("versions")
    return [text(f"{name} {version}") for name, version in versions.items()] if isinstance(versions, dict) else []


def _details(run: Row) -> str:
    command = run.environment.get("command")
    words = " ".join(map(str, command)) if isinstance(command, list) else str(command or "")
    line = f'<p class="command"><code>{escape(_printable(words))}</code></p>' if words else ""
    # Pages are passed on: the runs' place on this machine is nobody's business.
    shown = json.dumps(run.recipe, indent=1, ensure_ascii=False)
    shown = shown.replace(f"{run.path.parents[1]}/", "") if run.path else shown
    return fold(run.name, f"{line}{tracked(run.tracker)}<pre>{escape(_printable(shown))}</pre>")


def tracked(tracker: Mapping[str, Any]) -> str:
    """Returns the run's place in a tracker: a link to a server, or the name of what is in the run folder."""
    if not tracker:
        return ""
    url, name = str(tracker.get("url", "")), text(tracker.get("tracker", "tracker"))
    place = Path(str(tracker.get("path", ""))).name
    shown = f'<a href="{escape(url)}">{escape(url)}</a>' if url.startswith(("https://", "http://")) else escape(place)
    return f"<p>{escape(name)}: {shown}</p>"


def _printable(words: str) -> str:
    """A lone surrogate, which JSON can carry, cannot be written as UTF-8."""
    return words.encode("utf-8", "replace").decode("utf-8")
