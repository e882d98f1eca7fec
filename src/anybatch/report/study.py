"""The page of a study: findings in words, the paper's kind of table, figures, failures; and each as a file."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from anybatch.report import study_figures, trust
from anybatch.report.document import Rows, document, figure, header, points, section, table, write_folder
from anybatch.report.svg import Frame
from anybatch.report.wording import UNKNOWN, plural, rate


def write_study(found: Mapping[str, Any], out: Path) -> list[Path]:
    """Writes index.html, an SVG and a PDF of each figure and a CSV of each table into `out`; the page comes first.

    Args:
        found: what study.json holds.
    """
    figures = _figures(found)
    tables = {name: rows for name, rows in _tables(found).items() if rows[1]}
    return write_folder(out, _page(found, figures, tables), figures, tables)


def _figures(found: Mapping[str, Any]) -> dict[str, tuple[str, str, Callable[[Frame], str]]]:
    declared = found["declaration"]
    metric, target = found["metric_name"], declared["target"]
    figures: dict[str, tuple[str, str, Callable[[Frame], str]]] = {}
    if any(cell["final"] for cell in found["cells"]):
        figures["quality"] = (
            f"Final {metric} against batch",
            f"Means over the seeds, bars to the 95 % interval of the mean, small dots the seeds themselves. "
            f"{'Higher' if found['higher_is_better'] else 'Lower'} is better; a cross: no run ended with a number.",
            lambda frame: study_figures.quality(found, frame),
        )
    if any(cell["steps_to_target"] for cell in found["cells"]):
        figures["steps"] = (
            f"Steps to a {metric} of {target:g} against batch",
            "Both axes logarithmic. Dashed: perfect scaling, twice the batch in half the steps, from the smallest. "
            "Where the points leave it, more examples a step no longer make up for fewer steps. Curves: the fitted "
            "E = E_min (1 + B/B_crit). Small dots are seeds, large marks their mean, where all arrived. Between "
            "two evaluations the target is met on a straight line.",
            lambda frame: study_figures.steps(found, frame),
        )
    if any("optimizer.lr" in point for cell in found["cells"] for point in cell["sensitivity"]):
        figures["sensitivity"] = (
            f"How much the learning rate matters: final {metric} of the tuning runs",
            f"One panel an optimizer, one line a batch; {_tuning_seeds(declared['tuning_seeds'])} at each rate. A flat "
            "valley forgives a wrong rate, a narrow one does not. At the edge, crosses: diverged; triangles: beyond it."
            + (" Judged by the other half of the held-out data than what is reported." if found["parts"] else ""),
            lambda frame: study_figures.sensitivity(found, frame),
        )
    shown = [trial for trial in found["trials"] if trial["ratios"]]
    limits = trust.scale([trial["ratios"] for trial in shown])
    for number, entrant in enumerate(declared["entrants"]):
        mine = [trial for trial in shown if trial["entrant"] == entrant["name"]]
        # Three maps stand side by side: the smallest batch, the largest, and one between.
        mine = [mine[k] for k in sorted({0, len(mine) // 2, len(mine) - 1})] if mine else []
        if mine:
            figures[f"trust-{number}"] = (
                f"Trust ratios of {entrant['name']}, layer by layer",
                f"The norm of a layer's weights over the norm of its update, at a few steps of the run with seed "
                f"{mine[0]['seed']}: bright layers take long steps, dark ones short. The colours span "
                f"{rate(limits[0])} to {rate(limits[1])} for all. Layers that are not adapted are left out.",
                partial(_trust, mine, limits),
            )
    return figures


def _tuning_seeds(seeds: Sequence[int]) -> str:
    return f"the run of seed {seeds[0]}" if len(seeds) == 1 else f"the mean over {len(seeds)} tuning seeds"


def _trust(trials: Sequence[Mapping[str, Any]], limits: tuple[float, float], frame: Frame) -> str:
    labels = [f"batch {trial['batch_size']:,}" for trial in trials]
    return trust.heat_maps([trial["ratios"] for trial in trials], labels, limits, frame)


def _tables(found: Mapping[str, Any]) -> dict[str, Rows]:
    declared = found["declaration"]
    metric = found["metric_name"]
    names = sorted({name for cell in found["cells"] for name in cell["settings"]} - {"optimizer.lr"})
    results = [
        [cell["entrant"], cell["batch_size"], cell["num_steps"], cell["lr"], cell["warmup_steps"],
         *(cell["settings"].get(name) for name in names),
         *_interval(cell["final"]), cell["num_seeds"], cell["diverged"] + cell["failed"], cell["num_tuning_trials"],
         len(cell["steps_to_target"]), *_interval(cell["steps"])]
        for cell in found["cells"]
    ]  # fmt: skip
    columns = ["optimizer", "batch", "steps", "rate", "warm-up steps", *(name.rpartition(".")[2] for name in names),
               metric, f"{metric} from", f"{metric} to", "seeds", "lost", "tuning runs", "reached target",
               "steps to target", "steps from", "steps to"]  # fmt: skip
    differences = [
        [f"{row['first']}, {row['second']}", row["batch_size"], *_interval(row["difference"]),
         (row["difference"] or {}).get("count", 0), row["p_value"]]
        for row in found["differences"]
    ]  # fmt: skip
    scaling = [
        [row["entrant"], *_interval((row["fit"] or {}).get("e_min")), *_unbounded(row["fit"]),
         len(row["batches_fitted"])]
        for row in found["scaling"]
    ]  # fmt: skip
    failures = [
        [trial["key"], trial["state"], trial["error"] or _WHY.get(trial["state"], ""), _settings(trial["settings"])]
        for trial in found["trials"]
        if trial["state"] != "finished"
    ]
    return {
        "glance": (["optimizer", *(f"batch {batch:,}" for batch in declared["batch_sizes"])], _glance(found)),
        "results": (columns, results),
        "differences": (["pair", "batch", "lead of the first", "from", "to", "pairs", "p"], differences),
        "scaling": (
            ["optimizer", "E_min", "E_min from", "E_min to", "B_crit", "B_crit from", "B_crit to", "batches fitted"],
            scaling,
        ),
        "failures": (["trial", "state", "why", "settings"], failures),
        "trials": (
            ["trial", "optimizer", "batch", "part", "seed", "state", metric, "settings"],
            [[trial["key"], trial["entrant"], trial["batch_size"], trial["part"], trial["seed"], trial["state"],
              trial["final"], _settings(trial["settings"])] for trial in found["trials"]],
        ),
    }  # fmt: skip


_WHY = {
    "learned nothing": "ended within 2 % of the untrained model",
    "diverged": "no finite loss, or twice the untrained model's",
    "not run": "the study is not finished",
}
_HEADINGS = {
    "glance": "At a glance: optimizers by batch",
    "results": "What each optimizer reached",
    "differences": "Seed by seed: who is better, at each batch",
    "scaling": "Examples to the target: E = E_min (1 + B/B_crit)",
    "failures": "Runs that failed, diverged, learned nothing or are missing",
    "trials": "Every trial",
}
_NOTES = {
    "glance": "Means over the seeds, ± half the 95 % interval, uncut; an asterisk: the best of its batch.",
    "results": "From, to: the 95 % interval of the mean over seeds, cut where the metric ends. Lost: runs that "
    "diverged or failed, which enter no mean. Reached target: seeds that did; steps are given where all did.",
    "differences": "Runs with the same seed; above zero, the first one of the pair is better (lower, where the metric "
    "is a loss); no p-values below 5 pairs.",
    "scaling": "Examples to the target over all batches at which every seed reached it.",
}


def _page(found: Mapping[str, Any], figures: Mapping[str, Any], tables: Mapping[str, Rows]) -> str:
    declared = found["declaration"]
    kicker = (
        f"anybatch study {declared['name']} · {declared['protocol']} · "
        f"{plural(len(declared['entrants']), 'optimizer')} · {plural(len(found['trials']), 'trial')}"
    )
    sentences = found["findings"]
    parts = [
        header(kicker, found["question"], found["headline"]),
        section("setting", "What was run", points(found["setting"])),
        section("findings", "What was found", points(sentences)),
    ]
    parts += [_table("glance", tables["glance"])] if "glance" in tables else []
    drawn = {name: figure(name, title, caption, caption, draw) for name, (title, caption, draw) in figures.items()}
    maps = [name for name in drawn if name.startswith("trust-")]
    # Of several optimizers' maps the first is seen at once, and the others are in its section.
    folded = {
        name: f"<details><summary>{escape(figures[name][0])}</summary>{drawn[name]}</details>" for name in maps[1:]
    }
    for name, body in drawn.items():
        if name not in folded:
            parts.append(section(name, figures[name][0], body + "".join(folded.values()) * (name in maps)))
    made = found["environment"]
    parts += [_table(name, rows) for name, rows in tables.items() if name != "glance"]
    machine = f"{made['processor']}, {plural(made['cores'], 'core')}, {made['device']}"
    software = ", ".join(
        f"{name} {made['versions'][name]}" for name in ("anybatch", "torch") if name in made["versions"]
    )
    parts.append(section("made", "How it was made", points([f"{made['started'][:10]}, {software}, on {machine}."])))
    return document(found["question"], parts)


def _table(name: str, content: Rows) -> str:
    columns, rows = content
    body = table(_HEADINGS[name], columns, [[_shown(value) for value in row] for row in rows])
    if name == "trials":
        body = f"<details><summary>{len(rows)} trials</summary>{body}</details>"
    note = f"<p>{_NOTES[name]}</p>" if name in _NOTES else ""
    return section(f"table-{name}", _HEADINGS[name], note + body)


def _glance(found: Mapping[str, Any]) -> list[list[object]]:
    """A row an optimizer, a column a batch, as the paper has its tables."""
    cells = {(cell["entrant"], cell["batch_size"]): cell for cell in found["cells"]}
    names = [entrant["name"] for entrant in found["declaration"]["entrants"]]
    batches = found["declaration"]["batch_sizes"]
    pick = max if found["higher_is_better"] else min
    best = {
        batch: pick(
            (cells[name, batch]["final"]["mean"] for name in names if cells[name, batch]["final"]), default=None
        )
        for batch in batches
    }
    return [[name, *(_spread(cells[name, batch], best[batch]) for batch in batches)] for name in names]


def _spread(cell: Mapping[str, Any], best: float | None) -> str:
    final = cell["final"]
    if final is None:
        return "diverged" if cell["diverged"] else "failed" if cell["failed"] else ""
    mean, low, high = _interval(final)
    # One end may be cut.
    half = "" if low is None else f" ± {max(high - mean, mean - low):.2g}"
    return f"{mean:.4g}{half}{' *' if mean == best else ''}"


def _interval(value: Mapping[str, Any] | None) -> tuple[Any, Any, Any]:
    return (value["mean"], value["low"], value["high"]) if value else (None, None, None)


def _unbounded(fit: Mapping[str, Any] | None) -> tuple[object, object, object]:
    """The critical batch and its interval, whose open ends are infinite."""
    if fit is None:
        return None, None, None
    mean, low, high = _interval(fit["b_crit"])
    return math.inf if mean is None else mean, low or 0.0, math.inf if high is None else high


def _settings(settings: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {rate(value)}" for name, value in settings.items()) or "scaled by the rule"


def _shown(value: object) -> str:
    if value is None or value == "":
        return UNKNOWN
    if isinstance(value, float):
        if math.isinf(value):
            return "unbounded"
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
