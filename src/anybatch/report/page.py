"""The page itself: findings, figures, table and provenance as one HTML file that needs nothing else."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from anybatch.errors import InputError
from anybatch.files import write_text
from anybatch.report import classification, curves, figures, noise_figure, trust
from anybatch.report.document import document, header
from anybatch.report.document import figure as _figure
from anybatch.report.document import section as _section
from anybatch.report.findings import Findings, cell_loss, find, place
from anybatch.report.health_section import health_section
from anybatch.report.layout import cell_label
from anybatch.report.load import Record, load
from anybatch.report.phases import phases_table
from anybatch.report.scores import Score, by_cell, children
from anybatch.report.series import Cell, Series
from anybatch.report.table import provenance, runs_table
from anybatch.report.wording import GUESSED, count, listed, percent, plural, rate, score, short

_TINY = 20_000_000
_TITLE = "Does quality hold at larger batches?"


def write_report(
    runs: Sequence[Path],
    out: Path,
    *,
    title: str | None = None,
    background: Mapping[str, Any] | None = None,
    batch_sizes: Mapping[str, int] | None = None,
) -> None:
    """Writes one HTML page about `runs` to `out`; it loads nothing else and is the same for the same runs.

    Args:
        runs: run folders, output folders of a Hugging Face Trainer, folders of TensorBoard's event files; or folders
            that hold some at any depth.
        title: the heading; by default the question that the page answers.
        background: an earlier measurement to quote beside the findings: {"sentences": [...]}, or that under "seeds".
        batch_sizes: global batches by folder, of other trainers' logs that do not say.

    Raises:
        InputError: no run found, a run that cannot be read, or `out` is a folder.
    """
    if out.is_dir():
        raise InputError(f"{out}: is a folder; give the name of a file, such as {out / 'report.html'}")
    page = _page(load(runs, batch_sizes), title or _TITLE, _sentences(background))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)


def _sentences(background: Mapping[str, Any] | None) -> list[str]:
    found = dict(background or {})
    seeds = found.get("seeds")
    sentences = found.get("sentences") or (seeds.get("sentences") if isinstance(seeds, Mapping) else None) or []
    return [str(sentence) for sentence in sentences]


def _page(records: Sequence[Record], title: str, quoted: Sequence[str]) -> str:
    findings = find(records)
    links = children(records)
    sections = [
        _head(findings, records, title, quoted),
        *_curves(findings.series),
        _samples(findings.series),
        _scores(by_cell(findings.series, links), findings.series),
        _mistakes(findings.series),
        _rates(findings.series),
        _noise(findings.series),
        _trust(findings.series),
        _health(records),
        _phases(records),
        _section("runs", "Every run", runs_table(findings.series, records, links)),
        _section("made", "How it was made", provenance(records)),
    ]
    return document(title, sections)


def _head(findings: Findings, records: Sequence[Record], title: str, quoted: Sequence[str]) -> str:
    recipes = listed(dict.fromkeys(run.recipe_name for run in records))
    points = "".join(f"<li>{escape(point)}</li>" for point in findings.points)
    note = ""
    if quoted:
        lines = "".join(f"<p>{escape(sentence)}</p>" for sentence in quoted)
        note = f"<aside><h3>Measured before, over several seeds</h3>{lines}</aside>"
    series = [one for one in findings.series if any(cell.losses for cell in one.cells)]
    picture = ""
    if series:
        described = ". ".join(
            f"{one.label}: {'; '.join(f'{place(cell)} {cell_loss(cell)}' for cell in one.cells if cell.finished)}"
            for one in series
        )
        caption = "No reference run has finished, so there is no band to hold a loss to."
        if any(cell.held is not None for one in series for cell in one.cells):
            held = "end at most 5 % above the optimizer's own reference loss, the shaded band"
            if any(one.by_share for one in series):
                held = (
                    "keep at least 95 % of what the optimizer's own reference learned beyond "
                    f"{series[0].frequencies}: they end in the shaded band"
                )
            caption = f"Filled points {held}; hollow points do not. A cross at the upper edge lies beyond the scale."
        picture = _figure(
            "main", "Final held-out loss against global batch size", described, caption,
            lambda frame: figures.main_picture(series, frame),
        )  # fmt: skip
    head = header(f"{recipes} · {plural(len(records), 'run')}", title, findings.headline)
    found = f'<div class="findings"><ul>{points}</ul>{note}</div>'
    return head + (_section("batch", "Held-out loss by batch", picture + found) if points or note else "")


def _curves(series: Sequence[Series]) -> list[str]:
    points = [point for one in series for run in one.records for point in run.evals]

    sections = []
    if any(point.loss is not None for point in points):
        steps = sorted({cell.steps for one in series for cell in one.cells if cell.steps})
        caption = "Thinner and paler lines are larger batches."
        if len(steps) > 1:
            caption += (
                f" The larger the batch, the fewer the steps: {count(steps[-1])} at most, {count(steps[0])} at least."
            )
        if any(one.judged for one in series):
            caption += " The shaded band is where quality holds."
        if any(not run.finished for one in series for run in one.records):
            caption += " Dotted lines are runs that have not finished."
        figure = _figure(
            "loss", "Held-out loss against examples and steps", f"One row an optimizer. {caption}", caption,
            lambda frame: curves.curves(series, frame, value=lambda point: point.loss, band=True),
        )  # fmt: skip
        sections.append(_section("curves", "Held-out loss as training goes", figure))
    if any(point.accuracy is not None for point in points):
        final = [run.accuracy for one in series for run in one.records if run.accuracy is not None]
        low, high = (percent(each) for each in (min(final, default=None), max(final, default=None)))
        ends = "" if not final else f" It ends at {low}." if low == high else f" They end between {low} and {high}."
        tasks = {run.task for one in series for run in one.records}
        _, heading, guessed = GUESSED[tasks.pop() if len(tasks) == 1 else "pretraining"]
        caption = f"The share of {guessed}.{ends}"
        figure = _figure(
            "accuracy", f"{heading}, against examples and steps", f"One row an optimizer. {caption}", caption,
            lambda frame: curves.curves(series, frame, value=lambda point: point.accuracy, band=False),
        )  # fmt: skip
        sections.append(_section("accuracy", heading, figure))
    return sections


def _samples(series: Sequence[Series]) -> str:
    """How one run of each cell goes on from the same start of a held-out text."""
    found = [
        (f"{one.label} {cell_label(cell)}", *run.sample) for one in series for cell in one.cells
        for run in [next((run for run in cell.runs if run.sample), None)] if run is not None and run.sample is not None
    ]  # fmt: skip
    if not found:
        return ""
    lines = "".join(
        f"<dt>{escape(label)}</dt><dd><mark>{escape(start)}</mark>{escape(words)}</dd>" for label, start, words in found
    )
    note = "Each finished model goes on from the marked start of a held-out text, token by token."
    return _section("samples", "What the models write", f'<p>{note}</p><dl class="samples">{lines}</dl>')


def _scores(found: Sequence[Score], series: Sequence[Series]) -> str:
    if not found:
        return ""
    known = [one.f1 for one in found if one.f1 is not None]
    parameters = max((run.parameters for one in series for run in one.records if run.parameters), default=None)
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
    optimizers = [one.optimizer for one in series]
    figure = _figure(
        "scores", "F1 and exact match by batch and optimizer", described, caption,
        lambda frame: figures.scores(found, optimizers, frame),
    )  # fmt: skip
    return _section("questions", "Questions answered after fine-tuning", figure)


def _mistakes(series: Sequence[Series]) -> str:
    body = classification.mistakes(series)
    return _section("mistakes", "Which images are taken for what", body) if body else ""


def _rates(series: Sequence[Series]) -> str:
    if not any(point.lr is not None for one in series for run in one.records for point in run.trains):
        return ""
    spans = []
    for one in series:
        known = [run.lr for run in one.records if run.lr is not None and run.optimizer.lower() == one.optimizer]
        if known:
            rule = f" ({one.rule} rule)" if one.rule else ""
            spans.append(f"{one.label} {' to '.join(dict.fromkeys((rate(min(known)), rate(max(known)))))}{rule}")
    caption = f"The rate of every run as it warms up and decays. Highest rates: {'; '.join(spans)}."
    caption += "".join(f" {one.label}: {line}." for one in series for line in _scaled(one))
    figure = _figure(
        "rates", "Learning rate against examples", caption, caption, lambda frame: curves.rates(series, frame)
    )
    return _section("rates", "Learning rates", figure)


def _scaled(one: Series) -> list[str]:
    """The hyperparameters beside the learning rate that change with the batch: 'betas 0.9 0.999 at 64, ...'."""
    runs = sorted((run for run in one.records if run.hyperparameters), key=lambda run: run.batch)
    lines = []
    for name in dict.fromkeys(name for run in runs for name in run.hyperparameters):
        values = {run.batch: run.hyperparameters.get(name, "none") for run in runs}
        if len(set(values.values())) > 1:
            lines.append(f"{name} " + ", ".join(f"{value} at batch {batch:,}" for batch, value in values.items()))
    return lines


def _noise(series: Sequence[Series]) -> str:
    last = [
        f"{one.label} {cell_label(cell)} {_bounded(noise.value)} ({_bounded(noise.low)} to {_bounded(noise.high)})"
        for one in series
        for cell in one.cells
        for run in cell.runs[:1]
        if run.noise
        for noise in [run.noise[-1].noise]
    ]
    if not last:
        return ""
    caption = (
        "The batch, in examples, at which the noise of a gradient is as large as the gradient: far below it a doubled "
        "batch halves the steps, far above it only burns examples. Bands: 95 % intervals, over equal stretches of the "
        f"steps in which it was measured; at the upper edge they have no bound. At the end: {'; '.join(last)}."
    )
    picture = _figure(
        "noise", "Gradient noise scale against examples", caption, caption,
        lambda frame: noise_figure.noise_curves(series, frame),
    )  # fmt: skip
    return _section("noise", "Gradient noise scale", picture)


def _bounded(batch: float) -> str:
    return short(batch) if math.isfinite(batch) else "unbounded"


def _health(records: Sequence[Record]) -> str:
    found = health_section([(run.name, run.health) for run in records if run.health])
    return _section("health", "How the runs ran", found) if found else ""


def _phases(records: Sequence[Record]) -> str:
    found = phases_table(records)
    return _section("phases", "The phases of a run", found) if found else ""


def _trust(series: Sequence[Series]) -> str:
    found = [(one, cell, run) for one in series for cell in one.cells for run in cell.runs if run.ratios]
    if not found:
        return ""
    shown = found
    if len(found) > 3:
        first = [item for item in found if item[0] is found[0][0]]
        first = [item for item in first if item[2].finished] or first
        main = next((item for item in first if item[1] is first[0][0].main), first[len(first) // 2])
        largest = next(item for item in first if item[1] is first[-1][1])
        shown = list({item[2].path: item for item in (first[0], main, largest)}.values())
    limits = trust.scale([run.ratios for _, _, run in found])
    caption = (
        "Each layer's step is its learning rate times this ratio, the norm of its weights over the norm of its update: "
        "bright layers take long steps, dark ones short. In every map the colours span "
        f"{rate(limits[0])} to {rate(limits[1])}. Layers that are not adapted (ratio 1 throughout) are left out."
    )

    def named(item: tuple[Series, Cell, Record]) -> str:
        one, cell, run = item
        return f"{one.label} {cell_label(cell)}" + (f", seed {run.seed}" if len(cell.runs) > 1 else "")

    def maps(key: str, items: Sequence[tuple[Series, Cell, Record]]) -> str:
        names = [named(item) for item in items]
        return _figure(
            key, f"Trust ratios of every layer over time: {listed(names)}", caption, caption,
            lambda frame: trust.heat_maps([run.ratios for _, _, run in items], names, limits, frame),
        )  # fmt: skip

    body = maps("trust", shown)
    rest = [item for item in found if item not in shown]
    for number in range(0, len(rest), 3):
        part = rest[number : number + 3]
        names = listed(named(item) for item in part)
        body += f"<details><summary>{escape(names)}</summary>{maps(f'trust-{number}', part)}</details>"
    return _section("trust", "Trust ratios, layer by layer", body)
