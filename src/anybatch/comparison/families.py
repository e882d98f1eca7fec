"""Groups runs that belong together: one optimizer, one reference, as many examples; or one contender of a study.

`held_to` measures each run against its reference: its gap, and the share of the learning that it kept.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from statistics import fmean

from anybatch.comparison.cell import Cell
from anybatch.comparison.grid import Comparison, Series, frequencies
from anybatch.comparison.rows import ELSEWHERE, Row
from anybatch.comparison.wording import count, rate
from anybatch.names import optimizer_title


def compare(rows: Sequence[Row]) -> Comparison:
    """Compares the runs of folders: series of LAMB first, then by name; fine-tuning runs belong to none."""
    return Comparison(build(rows), rows)


def build(rows: Sequence[Row]) -> list[Series]:
    """Returns the series in `rows`."""

    def family(row: Row) -> tuple[str, ...]:
        return row.task, row.recipe_name, row.optimizer.lower(), row.rule, row.ramp

    pretraining = sorted((r for r in rows if r.task != "questions"), key=family)
    groups = [group for _, runs in groupby(pretraining, key=family) for group in _clusters(list(runs))]
    built = []
    for group in groups:
        first = group[0]
        mine = [other for other in groups if other[0].optimizer.lower() == first.optimizer.lower()]
        # At its own batch, a reference is the same by any rule. Logs of other trainers are compared with one of them.
        held_to = [other for other in (groups if first.task == ELSEWHERE else mine) if _same_reference(first, other[0])]
        references = [run for other in held_to for run in other if not run.ramp]
        built.append(_series(_label(first, [other[0] for other in mine if other is not group]), group, references))
    return sorted(built, key=lambda series: (series.optimizer != "lamb", series.label))


def held_to(cells: Sequence[Cell], reference_batch: int) -> list[Cell]:
    """The cells with their factors, gaps and kept shares, by the runs at the reference batch."""
    references = next((cell.runs for cell in cells if cell.batch == reference_batch), ())
    start = frequencies([run for cell in cells for run in cell.runs])
    found = []
    for cell in cells:
        pairs = _pairs(cell.runs, references)
        # Nothing is kept of a reference that learned nothing.
        gained = start is not None and not cell.metric.higher and all(base < start for _, _, base in pairs)
        kept = {name: (start - score) / (start - base) for name, score, base in pairs} if gained and start else {}
        gaps = {name: score / base - 1 for name, score, base in pairs}
        factor = cell.batch / reference_batch if references else None
        found.append(replace(cell, factor=factor, gaps=gaps, kept=kept))
    return found


def _pairs(runs: Sequence[Row], references: Sequence[Row]) -> list[tuple[str, float, float]]:
    """Each run's name and score, and the score of the reference run of its seed, or the mean if its seed has none."""
    known = [(run.seed, run.score) for run in references if run.finished and run.score]
    if not known or min(score for _, score in known) <= 0 or any(run.diverged for run in references):
        return []
    by_seed, mean = dict(known), fmean(score for _, score in known)
    return [(run.name, run.score, by_seed.get(run.seed, mean)) for run in runs if run.finished and run.score]


def _clusters(family: list[Row]) -> list[list[Row]]:
    """Groups runs scaled from one reference over the same number of examples, up to rounding to whole steps."""
    clusters: list[list[Row]] = []
    for run in sorted(family, key=lambda r: (not r.finished, r.reference is None, r.num_examples or 0, r.batch)):
        for cluster in clusters:
            first = cluster[0]
            same_reference = None in (run.reference, first.reference) or run.reference == first.reference
            if same_reference and (not run.finished or _same_length(first, run)):
                cluster.append(run)
                break
        else:
            clusters.append([run])
    return clusters


def _same_length(first: Row, other: Row) -> bool:
    if first.num_examples is None or other.num_examples is None:
        return first.num_examples == other.num_examples
    slack = max(first.batch, other.batch, 0.01 * first.num_examples)
    return abs(first.num_examples - other.num_examples) <= slack


def _same_reference(first: Row, other: Row) -> bool:
    """Returns whether two series of one recipe come from one reference over the same length."""
    if first.task == other.task == ELSEWHERE:
        return _same_length(first, other)
    return (
        (first.task, first.recipe_name, first.reference) == (other.task, other.recipe_name, other.reference)
        and first.reference is not None
        and _same_length(first, other)
    )


def _label(first: Row, rivals: Sequence[Row]) -> str:
    name = optimizer_title(first.optimizer)
    if first.ramp:
        return f"{name} (ramp {first.ramp})"
    if first.rule not in ("sqrt", "linear"):
        name = f"{name} ({first.rule} rule)"
    rivals = [rival for rival in rivals if (rival.rule, rival.ramp) == (first.rule, first.ramp)]
    if not rivals:
        return name
    if any(rival.recipe_name != first.recipe_name for rival in rivals):
        return f"{name} ({first.recipe_name})"
    if first.reference and any(rival.reference != first.reference for rival in rivals):
        return f"{name} (reference {first.reference.batch}, rate {rate(first.reference.lr)})"
    return f"{name} ({count(first.num_examples)} examples)"


def _series(label: str, runs: list[Row], references: Sequence[Row]) -> Series:
    first = runs[0]
    recorded = next((run.reference.batch for run in runs if run.reference and run.task != ELSEWHERE), None)
    reference_batch = recorded or min(run.batch for run in [*runs, *references])
    if not first.ramp and all(run.batch != reference_batch for run in runs):
        runs = [*runs, *(run for run in references if run.batch == reference_batch)]
    optimizer = first.optimizer.lower()
    other = next((run for run in runs if run.batch == reference_batch and run.optimizer.lower() != optimizer), None)
    owner = "" if other is None else optimizer_title(other.optimizer)
    cells = [
        Cell(
            batch,
            sorted((run for run in runs if run.batch == batch), key=lambda run: (run.seed or 0, run.name)),
            owner=owner if batch == reference_batch else "",
        )
        for batch in sorted({run.batch for run in runs})
    ]
    # A ramp has no batch, and is compared with none.
    held = cells if first.ramp else held_to(cells, reference_batch)
    return Series(optimizer, label, held, reference_batch, f"the {owner}" if owner else "its own")
