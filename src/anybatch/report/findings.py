"""What the runs say, in sentences computed from their numbers; true for whatever the numbers turn out to be."""

from collections.abc import Sequence
from dataclasses import dataclass

from anybatch.report.load import Record
from anybatch.report.series import TOLERANCE, Cell, Series, build
from anybatch.report.wording import count, gap, kept, listed, loss, plural, rate, times

_LEVEL = 0.01
_BOUND = f"{TOLERANCE:.0%}".replace("%", "\u202f%")
_KEPT = f"{1 - TOLERANCE:.0%}".replace("%", "\u202f%")


@dataclass(frozen=True)
class Findings:
    """`headline` is the answer in one sentence; `points` are the measured facts behind it, one sentence or two each."""

    series: Sequence[Series]
    headline: str
    points: Sequence[str]


def find(records: Sequence[Record]) -> Findings:
    """The series among `records` and what can be said of them."""
    series = build(records)
    # A run that only is the reference of another series is told there.
    told = [one for one in series if not any(one.lent_to(other) for other in series)]
    points = []
    for one in told:
        if any(cell.finished for cell in one.cells):
            points += [_measured(one), *filter(None, [_gain(one), _beyond(one, told)])]
    points += [sentence for sentence in (_tuning(told), _comparison(told)) if sentence]
    points += [sentence for sentence in (_caveat(told), _unfinished(records)) if sentence]
    return Findings(series, _headline(told, records), points)


def place(cell: Cell) -> str:
    """How a cell is named: by factor and batch, or by the batch alone where there is no reference."""
    return f"batch {count(cell.batch)}" if cell.factor is None else f"{times(cell.factor)} (batch {count(cell.batch)})"


def _headline(series: Sequence[Series], records: Sequence[Record]) -> str:
    shown = [one for one in series if any(cell.finished for cell in one.cells)]
    if not shown:
        done = sum(run.finished for run in records)
        if series:
            return "No pretraining run has finished yet, so nothing can be said about quality at larger batches."
        return (
            f"These are {plural(done, 'finished fine-tuning run')} without their pretraining: no batch to compare by."
        )
    first, *others = shown
    sentence = _verdict(first, first)
    if first.judged and first.rule:
        sentence += ", with nothing tuned there"
    for one in others:
        same_rule = first.rule is not None and one.rule == first.rule and first.judged and one.judged
        sentence += ("; under the same rule, " if same_rule else "; ") + _verdict(one, first)
    return sentence + "."


def _verdict(one: Series, first: Series) -> str:
    """A clause on how far quality held; short where `first` has said by what measure."""
    reference = one.reference
    if reference is None:
        return f"{one.label} has no run at its reference batch ({count(one.reference_batch)}), so its gaps are unknown"
    if reference.diverged:
        return f"{one.label} diverged at its reference batch ({count(reference.batch)}), so nothing can be held to it"
    if not reference.finished:
        return f"{one.label}'s run at its reference batch ({count(reference.batch)}) has not finished"
    if not one.judged:
        extent = "only at" if len(one.cells) == 1 else "and finished at no batch larger than"
        return (
            f"{one.label} ran {extent} batch {count(reference.batch)} (held-out loss {loss(reference.loss)}), "
            "so there is nothing to compare"
        )
    if not any(cell.gap is not None and not cell.diverged for cell in one.judged):
        share = "" if all(len(cell.finished) == cell.diverged for cell in one.judged) else ", in some runs,"
        return f"{one.label} diverged{share} at every larger batch"
    spelled = one is first or not first.judged or first.main is None or one.by_share != first.by_share
    own = f"{one.reference_name} batch-{count(reference.batch)} run"
    if one.by_share:
        did, short = f" kept at least {_KEPT} of what {own} learned", " did so"
    else:
        did, short = f"'s held-out loss stayed within {_BOUND} of {own}", "'s did so"
    verb = did if spelled else short
    if one.main is None:
        known = [cell for cell in one.judged if cell.gap is not None and not cell.diverged]
        nearest = min(known, key=lambda cell: cell.loss or 0.0)
        return f"{one.label}{verb} at no larger batch (nearest: {_far(nearest)})"
    missed = [times(cell.factor or 0) for cell in one.judged if not cell.held and cell.batch < one.main.batch]
    every = "at every larger batch tried, " if len(one.held) == len(one.judged) else ""
    apart = "," if one.by_share and spelled and not every else ""
    sentence = f"{one.label}{verb}{apart} {every}up to {_far(one.main)}"
    return sentence + (f", though not at {listed(missed)}" if missed else "")


def _far(cell: Cell) -> str:
    return f"{times(cell.factor or 1)} (batch {count(cell.batch)}, {distance(cell)})"


def distance(cell: Cell) -> str:
    """How near a cell comes to its reference: the share of the learning that it kept, or else its gap."""
    return gap(cell.gap) if cell.share is None else f"{kept(cell.share)} kept"


def cell_loss(cell: Cell, spread: bool = True) -> str:
    """The cell's held-out loss, with its range over the seeds, or what happened instead."""
    if cell.loss is None:
        return "diverged" if cell.diverged else "not finished"
    text = loss(cell.loss)
    if spread and len(cell.losses) > 1:
        text += f" ({loss(min(cell.losses))} to {loss(max(cell.losses))})"
    return text + (f", {cell.diverged} of {len(cell.finished)} runs diverged" if cell.diverged else "")


def _gap(cell: Cell) -> str:
    spread = f" ({gap(min(cell.gaps))} to {gap(max(cell.gaps))})" if len(cell.gaps) > 1 else ""
    return f"{gap(cell.gap)}{spread}"


def _share(cell: Cell) -> str:
    spread = f" ({kept(min(cell.kept))} to {kept(max(cell.kept))})" if len(cell.kept) > 1 else ""
    return f"{kept(cell.share or 0.0)}{spread}"


def _measured(one: Series) -> str:
    finished = [cell for cell in one.cells if cell.finished]
    length = f" after about {count(one.num_examples)} examples each" if one.num_examples and len(finished) > 1 else ""
    parts = []
    for cell in finished:
        if cell is one.reference and len(finished) > 1:
            name = one.reference_name.replace("its own", "the")
            parts.append(f"{cell_loss(cell)} at {name} reference, batch {count(cell.batch)}")
        elif cell.gaps and cell is not one.reference:
            parts.append(f"{cell_loss(cell, spread=False)}, gap {_gap(cell)}, at {place(cell)}")
        else:
            parts.append(f"{cell_loss(cell)} at {place(cell) if len(finished) > 1 else f'batch {count(cell.batch)}'}")
    unknown = "" if any(cell.gaps for cell in finished) else " No gap can be given."
    return f"{one.label}, held-out loss{length}: {'; '.join(parts)}.{unknown}"


def _gain(one: Series) -> str:
    """What was learned beyond token frequencies, and how much of it each larger batch kept."""
    frequencies, reference = one.context_free_loss, one.reference
    if frequencies is None or reference is None or reference.loss is None or reference.diverged:
        return ""
    start = f"{one.frequencies.capitalize()} alone give {loss(frequencies)}"
    gained = frequencies - reference.loss
    if gained <= 0:
        return f"{start}: {one.label} learned no more than these at its reference batch."
    shares = [f"{_share(cell)} at {times(cell.factor or 1)}" for cell in one.judged if cell.kept and not cell.diverged]
    rest = f"; of that, {listed(shares)} was learned" if shares else ""
    return f"{start}; {one.label} at its reference gained {loss(gained)} on them{rest}."


def _beyond(one: Series, series: Sequence[Series]) -> str:
    """What lies past the largest batch that held, and why."""
    if not one.judged:
        return ""
    if not one.lost_beyond:
        return f"{one.label} held to the largest batch tried; where its critical batch lies, these runs do not show."
    cell = one.lost_beyond[0]
    if cell.diverged:
        share = f" in {cell.diverged} of {len(cell.finished)} runs" if cell.losses else ""
        return f"{one.label} diverged{share} at {place(cell)}: the untuned settings are unstable there."
    holder = next((other for other in series if other is not one and any(_reaches(c, cell) for c in other.held)), None)
    if holder is not None:
        return (
            f"{one.label} no longer holds at {place(cell)}, {distance(cell)}, where {holder.label} does: not the "
            f"number of steps but the untuned settings fall short for {one.label}."
        )
    small = "even " if one.main is None else ""
    last = one.lost_beyond[-1]
    sentence = (
        f"{one.label} does not hold {small}at {place(cell)}, {distance(cell)}: either this is past the critical batch, "
        "where too few steps are left for the same quality at equal examples, or the untuned settings do not carry "
        "over; these runs cannot tell which."
    )
    frequencies, reference = one.context_free_loss, one.reference
    if frequencies is None or last.loss is None or last.loss < frequencies or last.steps is None:
        return sentence
    if reference is None or reference.loss is None or reference.loss >= frequencies:
        return sentence  # the reference learned no more than that, either
    return (
        f"{sentence} At {place(last)} the steps have run out: {plural(last.steps, 'step')} teach no more than "
        f"{one.frequencies}, which is past the critical batch."
    )


def _reaches(held: Cell, lost: Cell) -> bool:
    return held.steps is not None and lost.steps is not None and held.steps <= lost.steps * 1.01


def _tuning(series: Sequence[Series]) -> str:
    judged = [one for one in series if one.judged]
    by_rule = [one for one in judged if one.rule]
    if not by_rule:
        return (
            "These runs do not record a scaling rule for their rates; they may have been set by hand." if judged else ""
        )
    sentences = []
    for rule in dict.fromkeys(one.rule for one in by_rule):
        group = [one for one in by_rule if one.rule == rule]
        rates = [f"{rate(lr)} for {one.label}" for one in group if (lr := _reference_lr(one)) is not None]
        warmup = " The warm-up keeps its number of steps." if all(one.warmup_kept for one in group) else ""
        sentences.append(
            "Nothing was tuned at the larger batches: learning rate, warm-up and steps follow from the reference, the "
            f"rate by the {rule} rule" + (f" from {listed(rates)}" if rates else "") + f".{warmup}"
        )
    rest = [one.label for one in judged if not one.rule]
    if rest:
        sentences.append(f"The rates of {listed(rest)} follow no such rule; they may have been set by hand.")
    return " ".join(sentences)


def _reference_lr(one: Series) -> float | None:
    return next((run.reference.lr for run in one.records if run.reference), None)


def _comparison(series: Sequence[Series]) -> str:
    """The others against the first, batch by batch, said plainly where they do as well or better."""
    shown = [one for one in series if any(cell.losses for cell in one.cells)]
    return " ".join(filter(None, (_against(shown[0], other) for other in shown[1:] if _comparable(shown[0], other))))


def _comparable(first: Series, other: Series) -> bool:
    lengths = first.num_examples, other.num_examples
    if None in lengths or abs((lengths[0] or 0) - (lengths[1] or 0)) > 0.02 * (lengths[0] or 0):
        return False
    sizes = {run.parameters for one in (first, other) for run in one.records if run.parameters}
    return len(sizes) <= 1 and first.records[0].task == other.records[0].task


def _against(first: Series, other: Series) -> str:
    here = {cell.batch: cell for cell in first.cells}
    lower: list[str] = []
    level: list[str] = []
    higher: list[str] = []
    for cell in other.cells:
        mine = here.get(cell.batch)
        if (
            mine is None
            or mine.runs[0] is cell.runs[0]
            or cell.loss is None
            or mine.loss is None
            or cell.diverged
            or mine.diverged
        ):
            continue
        group = level if abs(cell.loss / mine.loss - 1) <= _LEVEL else lower if cell.loss < mine.loss else higher
        group.append(f"{count(cell.batch)} ({loss(cell.loss)} against {loss(mine.loss)})")
    if not (lower or level or higher):
        return ""
    parts = [f"{word} at batch {listed(group)}" for word, group in _words(lower, level, higher) if group]
    good = len(lower) + len(level)
    total = good + len(higher)
    if not good:
        plain = f"{other.label} does worse than {first.label} at every batch that both ran"
    elif good == total:
        plain = f"{other.label} does as well as {first.label} or better at every batch that both ran"
    else:
        plain = f"{other.label} does as well as {first.label} or better at {good} of the {total} batches that both ran"
    return f"{plain}: its loss is {'; '.join(parts)}."


def _words(lower: list[str], level: list[str], higher: list[str]) -> list[tuple[str, list[str]]]:
    return [("lower", lower), (f"level (within {_LEVEL:.0%})".replace("%", "\u202f%"), level), ("higher", higher)]


def _caveat(series: Sequence[Series]) -> str:
    cells = [cell.finished for one in series for cell in one.cells if cell.finished]
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
    return f"{number} runs a cell; {named}. Numbers are means, ranges run from the smallest to the largest.{note}"


def _unfinished(records: Sequence[Record]) -> str:
    names = [f"{run.name} ({run.state})" for run in records if not run.finished]
    if not names:
        return ""
    verbs = ("has", "counts") if len(names) == 1 else ("have", "count")
    shown = listed(names) if len(names) <= 6 else f"{', '.join(names[:6])} and {len(names) - 6} more"
    return f"{plural(len(names), 'run')} {verbs[0]} not finished and {verbs[1]} in no number here: {shown}."
