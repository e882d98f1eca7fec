"""The doubts of a comparison, in sentences: seeds, edges of ranges, lost runs, and what intervals do not cover."""

from collections.abc import Sequence

from anybatch.comparison.grid import Comparison
from anybatch.comparison.rows import Row
from anybatch.comparison.wording import listed, plural


def doubts(comparison: Comparison) -> list[str]:
    """Returns one doubt a sentence."""
    said = [*_of_study(comparison)] if comparison.is_study else [_seeds(comparison), _unfinished(comparison.rows)]
    compared = sum(each.interval is not None for each in comparison.differences)
    if compared > 1 and comparison.repeated:
        said.append(
            f"Each of the {compared} comparisons has its own 95 % interval, not corrected for their number: about "
            "one in twenty such intervals misses the truth by chance."
        )
    return [*filter(None, said)]


def _of_study(comparison: Comparison) -> list[str]:
    declared, metric = comparison.declaration or {}, comparison.metric
    cells = [(one.label, cell) for one in comparison.series for cell in one.cells]
    said = []
    if edges := [f"{name} at {cell.batch:,} ({cell.at_edge} tried)" for name, cell in cells if cell.at_edge]:
        said.append(
            f"The best learning rate lies at the edge of its range for {', '.join(edges)}: a wider range may do better."
        )
    if declared["protocol"] == "untuned":
        said.append(
            "Nothing was tuned beyond the references: this compares the optimizers with these references and scaling "
            "rules, not the optimizers at their best."
        )
    else:
        runs = sorted({len(cell.tuning) for _, cell in cells})
        halves = " They see the other half of the held-out data: do not compare their losses with the reported ones."
        said.append(
            f"Every optimizer had {', '.join(map(str, runs))} tuning runs at each batch, with seeds that no reported "
            f"run has.{halves if comparison.parts else ''}"
        )
        said.append(
            "Intervals are over the seeds of the reported runs. They do not cover the choice of a learning rate by so "
            "few tuning runs."
        )
        if metric.target is not None:
            said.append(
                f"Learning rates were chosen by the final {metric.name}. Steps to the target are read from the same "
                "runs; learning rates chosen for the target may reach it sooner."
            )
    rows, outcomes = comparison.rows, [row.outcome for row in comparison.rows]
    if missing := outcomes.count("not run"):
        said.append(f"{missing} of {len(rows)} trials have not run: the study is not finished.")
    if lost := outcomes.count("diverged") + outcomes.count("failed"):
        said.append(f"{lost} of {len(rows)} trials diverged or failed; they are listed below.")
    if still := [row for row in rows if row.still]:
        said.append(
            f"{len(still)} of {len(rows)} trials, {sum(row.part == 'reported' for row in still)} of them reported, "
            f"ended within 2 % of the untrained model's {metric.name}: they learned nothing."
        )
    seeds = len(declared["seeds"])
    if seeds < 5 and len(comparison.series) > 1:
        said.append(f"With {plural(seeds, 'seed')} no p-values are given; intervals assume normal errors.")
    return said


def _seeds(comparison: Comparison) -> str:
    cells = [cell.finished for one in comparison.told for cell in one.cells if cell.finished]
    if not cells:
        return ""
    seeds = sorted({run.seed for cell in cells for run in cell if run.seed is not None})
    named = f"seed{'' if len(seeds) == 1 else 's'} {listed(map(str, seeds))}" if seeds else "seed not recorded"
    sizes = sorted({len(cell) for cell in cells})
    if sizes == [1]:
        return f"One run a cell; {named}. A single run says nothing about the spread between seeds."
    number = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    repeated = any(len({run.seed for run in cell}) < len(cell) for cell in cells)
    note = " Some cells hold several runs of one seed." if repeated else ""
    return (
        f"{number} runs a cell; {named}. Numbers are means, ranges run from the smallest to the largest; intervals are "
        f"Student's, over the seeds.{note}"
    )


def _unfinished(rows: Sequence[Row]) -> str:
    names = [f"{run.name} ({run.state})" for run in rows if not run.finished]
    if not names:
        return ""
    have, are = ("has", "is") if len(names) == 1 else ("have", "are")
    shown = listed(names) if len(names) <= 6 else f"{', '.join(names[:6])} and {len(names) - 6} more"
    return f"{plural(len(names), 'run')} {have} not finished and {are} left out of every number here: {shown}."
