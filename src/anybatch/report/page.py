"""The page: one comparison, in sections, as one HTML file that needs nothing else."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from anybatch.comparison.families import compare
from anybatch.comparison.findings import Findings, find
from anybatch.comparison.folders import load
from anybatch.comparison.grid import Comparison
from anybatch.comparison.wording import listed, plural
from anybatch.errors import InputError
from anybatch.files import write_text
from anybatch.report import curves, quality, tables
from anybatch.report.classification import mistakes
from anybatch.report.document import Section, page, points, write_folder
from anybatch.report.layout import named
from anybatch.report.questions import questions
from anybatch.report.running import health, phases
from anybatch.report.trust import trust

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
        batch_sizes: global batches by folder, for other trainers' logs without one.

    Raises:
        InputError: no run found, a run that cannot be read, or `out` is a folder.
    """
    if out.is_dir():
        raise InputError(f"{out}: is a folder; give the name of a file, such as {out / 'report.html'}")
    comparison = compare(load(runs, batch_sizes))
    findings = find(comparison)
    measured = dict(background or {})
    seeds = measured.get("seeds")
    quoted = measured.get("sentences") or (seeds.get("sentences") if isinstance(seeds, Mapping) else None) or []
    recipes = listed(dict.fromkeys(run.recipe_name for run in comparison.rows))
    kicker = f"{recipes} · {plural(len(comparison.rows), 'run')}"
    html = page(kicker, title or _TITLE, findings.headline, sections(comparison, findings, [*map(str, quoted)]))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, html)


def write_study(comparison: Comparison, out: Path) -> list[Path]:
    """Writes index.html, an SVG and a PDF of each figure and a CSV of each table into `out`; the page comes first."""
    findings, declared = find(comparison), comparison.declaration or {}
    told = sections(comparison, findings)
    kicker = (
        f"anybatch study {declared['name']} · {declared['protocol']} · "
        f"{plural(len(comparison.series), 'optimizer')} · {plural(len(comparison.rows), 'trial')}"
    )
    return write_folder(out, page(kicker, comparison.question, findings.headline, told), told)


def sections(comparison: Comparison, findings: Findings, quoted: Sequence[str] = ()) -> list[Section | None]:
    """Returns all sections of a comparison; None for those without content."""
    return [
        Section("setting", "What was run", [points(comparison.setting)]) if comparison.setting else None,
        batch(comparison, findings, quoted),
        tables.glance(comparison),
        curves.losses(comparison),
        curves.accuracies(comparison),
        quality.steps(comparison),
        quality.sensitivity(comparison),
        samples(comparison),
        questions(comparison),
        mistakes(comparison),
        curves.rates(comparison),
        curves.noise(comparison),
        trust(comparison),
        health(comparison),
        phases(comparison),
        tables.results(comparison),
        tables.differences(comparison),
        tables.scaling(comparison),
        tables.failures(comparison),
        tables.trials(comparison) if comparison.is_study else tables.runs(comparison),
        tables.made(comparison),
    ]


def batch(comparison: Comparison, findings: Findings, quoted: Sequence[str]) -> Section | None:
    """Returns the answer in a figure, and the findings behind it."""
    figure, aside = quality.quality(comparison), ""
    if quoted:
        lines = "".join(f"<p>{escape(sentence)}</p>" for sentence in quoted)
        aside = f"<aside><h3>Measured before, over several seeds</h3>{lines}</aside>"
    if not (findings.points or quoted):
        return None
    name = comparison.metric.name
    heading = f"{name[0].upper()}{name[1:]} by batch"
    return Section("batch", heading, [*([figure] if figure else []), points(findings.points, aside)])


def samples(comparison: Comparison) -> Section | None:
    """Returns one run's continuation of the same held-out text, for each cell."""
    found = [
        (named(one, cell), *run.sample) for one in comparison.series for cell in one.cells
        for run in [next((run for run in cell.runs if run.sample), None)] if run is not None and run.sample is not None
    ]  # fmt: skip
    lines = "".join(
        f"<dt>{escape(label)}</dt><dd><mark>{escape(start)}</mark>{escape(words)}</dd>" for label, start, words in found
    )
    note = "Each finished model continues the marked start of a held-out text, token by token."
    body = f'<p>{note}</p><dl class="samples">{lines}</dl>'
    return Section("samples", "What the models write", [body]) if found else None
