"""The findings of a comparison, in sentences computed from its numbers: how far quality holds, and who is better."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from anybatch.comparison.cell import TOLERANCE, Cell
from anybatch.comparison.doubts import doubts
from anybatch.comparison.grid import Comparison, Difference, Scaling, Series
from anybatch.comparison.statistics import Interval
from anybatch.comparison.wording import count, gap, kept, listed, loss, plural, rate, share_of_one, spread, times


@dataclass(frozen=True)
class Findings:
    """`headline` is the answer in a sentence or two; `points` are the measured facts behind it."""

    headline: str
    points: Sequence[str]


def find(comparison: Comparison) -> Findings:
    """Finds the answers. A study's first answer is who is better; that of a folder of runs, how far quality holds."""
    one_by_one: list[str] = []
    for one in comparison.told:
        if any(cell.finished for cell in one.cells):
            beyond = "" if comparison.tuned else _beyond(one, comparison.told)
            one_by_one += [_measured(one, comparison), *filter(None, [_gain(one), beyond])]
    tuning = [] if comparison.tuned else [*filter(None, [_tuning(comparison.told)])]
    together = _batch_by_batch(comparison)
    if comparison.is_study:
        points = [*together, *(_scaling(each, comparison) for each in comparison.scaling), *one_by_one, *tuning]
        untuned = not comparison.tuned and any(one.judged for one in comparison.told)
        headline = (f"{_how_far(comparison.told)} " if untuned else "") + _who_is_best(comparison, together)
    else:
        points = [*one_by_one, *tuning, *together]
        done = plural(sum(run.finished for run in comparison.rows), "finished fine-tuning run")
        headline = f"These are {done} without their pretraining: no batch to compare by."
        if comparison.told:
            headline = "No pretraining run has finished yet, so nothing can be said about quality at larger batches."
        if one_by_one:
            headline = _how_far(comparison.told)
    return Findings(headline, [*points, *doubts(comparison)])


def place(cell: Cell) -> str:
    """Returns a cell's name: factor and batch, or only the batch if there is no reference."""
    return f"batch {count(cell.batch)}" if cell.factor is None else f"{times(cell.factor)} (batch {count(cell.batch)})"


def cell_score(cell: Cell, ranged: bool = True) -> str:
    """The cell's mean score, with its range over the seeds, or what happened instead."""
    if cell.score is None:
        return "diverged" if cell.diverged else "not finished"
    text = loss(cell.score) + (spread(cell.scores, loss) if ranged else "")
    return text + (f", {cell.diverged} of {len(cell.finished)} runs diverged" if cell.diverged else "")


def distance(cell: Cell) -> str:
    """Returns how near a cell comes to its reference: the kept share of the learning, or its gap."""
    return gap(cell.gap) if cell.share is None else f"{kept(cell.share)} kept"


def _how_far(series: Sequence[Series]) -> str:
    """Returns up to which batch each contender's quality held."""
    first, *others = [one for one in series if any(cell.finished for cell in one.cells)]
    sentence = _verdict(first, first)
    if first.judged and first.rule:
        sentence += ", with nothing tuned there"
    for one in others:
        same_rule = first.rule is not None and one.rule == first.rule and first.judged and one.judged
        sentence += ("; under the same rule, " if same_rule else "; ") + _verdict(one, first)
    return sentence + "."


def _verdict(one: Series, first: Series) -> str:
    """Returns a clause on how far quality held; short if `first` has explained the measure."""
    reference, metric = one.reference, one.metric.name
    if reference is None:
        return f"{one.label} has no run at its reference batch ({count(one.reference_batch)}), so its gaps are unknown"
    if reference.diverged:
        at = f"its reference batch ({count(reference.batch)})"
        return f"{one.label} diverged at {at}, so there is nothing to compare with"
    if not reference.finished:
        return f"{one.label}'s run at its reference batch ({count(reference.batch)}) has not finished"
    if not one.judged:
        extent = "only at" if len(one.cells) == 1 else "and finished at no batch larger than"
        return (
            f"{one.label} ran {extent} batch {count(reference.batch)} ({metric} {loss(reference.score)}), "
            "so there is nothing to compare"
        )
    known = [cell for cell in one.judged if cell.gap is not None and not cell.diverged]
    if not known:
        share = "" if all(len(cell.finished) == cell.diverged for cell in one.judged) else ", in some runs,"
        return f"{one.label} diverged{share} at every larger batch"
    spelled = one is first or not first.judged or first.main is None or one.by_share != first.by_share
    own = f"{one.reference_name} batch-{count(reference.batch)} run"
    if one.by_share:
        did, short = f" kept at least {share_of_one(1 - TOLERANCE)} of what {own} learned", " did so"
    else:
        did, short = f"'s {metric} stayed within {share_of_one(TOLERANCE)} of {own}", "'s did so"
    verb = did if spelled else short
    if one.main is None:
        pick = max if one.metric.higher else min
        return (
            f"{one.label}{verb} at no larger batch (nearest: {_far(pick(known, key=lambda cell: cell.score or 0.0))})"
        )
    missed = [times(cell.factor or 0) for cell in one.judged if not cell.held and cell.batch < one.main.batch]
    every = "at every larger batch tried, " if len(one.held) == len(one.judged) else ""
    apart = "," if one.by_share and spelled and not every else ""
    sentence = f"{one.label}{verb}{apart} {every}up to {_far(one.main)}"
    return sentence + (f", though not at {listed(missed)}" if missed else "")


def _far(cell: Cell) -> str:
    return f"{times(cell.factor or 1)} (batch {count(cell.batch)}, {distance(cell)})"


def _measured(one: Series, comparison: Comparison) -> str:
    finished = [cell for cell in one.cells if cell.finished]
    length = f" after about {count(one.num_examples)} examples each" if one.num_examples and len(finished) > 1 else ""
    name = "the smallest" if comparison.tuned else f"{one.reference_name.replace('its own', 'the')} reference"
    parts = []
    for cell in finished:
        if cell is one.reference and len(finished) > 1:
            parts.append(f"{cell_score(cell)} at {name}, batch {count(cell.batch)}")
        elif cell.gaps and cell is not one.reference:
            distances = f"{gap(cell.gap)}{spread(cell.gaps.values(), gap)}"
            parts.append(f"{cell_score(cell, ranged=False)}, gap {distances}, at {place(cell)}")
        else:
            parts.append(f"{cell_score(cell)} at {place(cell) if len(finished) > 1 else f'batch {count(cell.batch)}'}")
    unknown = "" if any(cell.gaps for cell in finished) else " No gap can be given."
    return f"{one.label}, {one.metric.name}{length}: {'; '.join(parts)}.{unknown}"


def _gain(one: Series) -> str:
    """Returns what was learned beyond token frequencies, and how much of it each larger batch kept."""
    start, reference = one.context_free_loss, one.reference
    if start is None or reference is None or reference.score is None or reference.diverged or one.metric.higher:
        return ""
    alone = f"{one.frequencies.capitalize()} alone give {loss(start)}."
    gained = start - reference.score
    if gained <= 0:
        return f"{alone} {one.label} learned no more than these at its reference batch."
    shares = []
    for cell in one.judged:
        if cell.share is not None and not cell.diverged:
            shares.append(f"{kept(cell.share)}{spread(cell.kept.values(), kept)} at {times(cell.factor or 1)}")
    rest = f" Of this gain, it kept {listed(shares)}." if shares else ""
    return f"{alone} {one.label} gained {loss(gained)} over them at its reference.{rest}"


def _beyond(one: Series, series: Sequence[Series]) -> str:
    """Returns what happens beyond the largest batch that held, and why."""
    if not one.judged:
        return ""
    lost_beyond = [cell for cell in one.judged if not cell.held and cell.batch > (one.main.batch if one.main else 0)]
    if not lost_beyond:
        return f"{one.label} held up to the largest batch tried; these runs do not show its critical batch."
    cell, last = lost_beyond[0], lost_beyond[-1]
    if cell.diverged:
        share = f" in {cell.diverged} of {len(cell.finished)} runs" if cell.scores else ""
        return f"{one.label} diverged{share} at {place(cell)}: the untuned settings are unstable there."
    enough = 1.01 * (cell.num_steps or 0)
    holder = next(
        (
            other
            for other in series
            if other is not one and any(held.num_steps and held.num_steps <= enough for held in other.held)
        ),
        None,
    )
    if holder is not None:
        return (
            f"{one.label} does not hold at {place(cell)}, {distance(cell)}, but {holder.label} does: the cause is not "
            f"the number of steps, but the untuned settings of {one.label}."
        )
    small = "even " if one.main is None else ""
    sentence = (
        f"{one.label} does not hold {small}at {place(cell)}, {distance(cell)}: either this is past the critical batch, "
        "where equal examples leave too few steps for the same quality, or the untuned settings do not work there; "
        "these runs do not show which."
    )
    start, base = one.context_free_loss, one.reference.score if one.reference else None
    learned_nothing = start is not None and last.score is not None and last.score >= start
    # The reference may have learned no more than that, either.
    if start is None or base is None or base >= start or not learned_nothing or last.num_steps is None:
        return sentence
    return (
        f"{sentence} At {place(last)} too few steps are left: {plural(last.num_steps, 'step')} teach no more than "
        f"{one.frequencies}, so this batch is past the critical batch."
    )


def _tuning(series: Sequence[Series]) -> str:
    judged = [one for one in series if one.judged]
    by_rule = [one for one in judged if one.rule]
    if not judged:
        return ""
    if not by_rule:
        return "These runs do not record a scaling rule for their learning rates; they may have been set by hand."
    sentences = []
    for rule in dict.fromkeys(one.rule for one in by_rule):
        group = [one for one in by_rule if one.rule == rule]
        known = [(one, next((run.reference.lr for run in one.rows if run.reference), None)) for one in group]
        rates = [f"{rate(lr)} for {one.label}" for one, lr in known if lr is not None]
        warmup = " The warm-up keeps its number of steps." if all(one.warmup_kept for one in group) else ""
        sentences.append(
            "Nothing was tuned at the larger batches: learning rate, warm-up and steps follow from the reference, the "
            f"rate by the {rule} rule" + (f" from {listed(rates)}" if rates else "") + f".{warmup}"
        )
    rest = [one.label for one in judged if not one.rule]
    if rest:
        sentences.append(
            f"The learning rates of {listed(rest)} follow no scaling rule; they may have been set by hand."
        )
    return " ".join(sentences)


def _who_is_best(comparison: Comparison, together: Sequence[str]) -> str:
    """Returns who is best at which batch, and at how many batches the data support it."""
    metric = comparison.metric.name
    best = {batch: found[0].label for batch in comparison.batches if (found := comparison.best(batch))}
    if not best:
        return f"No run ended with a finite {metric}."
    if len(comparison.series) == 1:
        return together[0]
    alone = all(len(cell.runs) == 1 for one in comparison.series for cell in one.cells)
    value, names = metric if alone else f"mean {metric}", list(dict.fromkeys(best.values()))
    by_batch = ", ".join(f"{name}'s at batch {batch:,}" for batch, name in best.items())
    said = f"{names[0]} has the best {value} at every batch" if len(names) == 1 else f"The best {value} is {by_batch}"
    return f"{said}{_supported(comparison, best, alone)}.{_reservations(comparison)}"


def _supported(comparison: Comparison, best: dict[int, str], alone: bool) -> str:
    if alone:
        return ", in one run each, which says nothing about chance"
    supported = sum(
        all(
            each.told_apart and each.told_apart[0] == name
            for each in comparison.of_batch(batch)
            if name in (each.first, each.second)
        )
        for batch, name in best.items()
    )
    if supported:
        return f"; the data support that it is better than every other at {supported} of {len(best)}"
    apart = [
        f"{each.told_apart[0]} is better than {each.told_apart[1]} at batch {each.batch:,}"
        for each in comparison.differences
        if each.told_apart
    ]
    only = f", only that {' and that '.join(apart)}" if apart else ""
    return f"; the data support at no batch that it is better than every other{only}"


def _reservations(comparison: Comparison) -> str:
    """Returns what a reader of only the headline must know, too."""
    never = [one.label for one in comparison.series if not any(cell.scores for cell in one.cells)]
    said = f" No run of {' or '.join(never)} ended with a number." if never else ""
    if any(cell.at_edge for one in comparison.series for cell in one.cells):
        said += " Some best learning rates are the last ones tried: wider ranges may change the result."
    compared = sum(each.interval is not None and each.interval.low is not None for each in comparison.differences)
    if compared > 1 and any(each.told_apart for each in comparison.differences):
        said += f" (Each of {compared} comparisons has its own 95 % interval.)"
    return said


def _batch_by_batch(comparison: Comparison) -> list[str]:
    """Returns for each batch who is best, and whether the data distinguish it from the others."""
    if not comparison.repeated:
        return _one_run_each(comparison)
    said = []
    for batch in comparison.batches:
        cells, best = comparison.at(batch), comparison.best(batch)
        if best is None or len(comparison.contenders) == 1:
            if comparison.is_study:
                ends = f"{best[0].label} ends at {_spread(best[1].final)}" if best and best[1].final else ""
                said.append(f"At batch {batch:,} {ends or f'no run ended with a finite {comparison.metric.name}'}.")
            continue
        differences = comparison.of_batch(batch)
        if not differences:
            continue
        name, final = best[0].label, best[1].final
        rivals = [
            _against(comparison.difference(batch, best, rival), rival[1])
            for rival in cells
            if rival[0] is not best[0] and rival[1].runs[0] is not best[1].runs[0]
        ]
        others = [
            f"Of the others, {each.told_apart[0]} is better than {each.told_apart[1]}."
            for each in differences
            if each.told_apart and name not in (each.first, each.second)
        ]
        said.append(
            f"At batch {batch:,} {name} has the best mean {comparison.metric.name}, {_spread(final)}. "
            f"{' '.join(rivals + others)}"
        )
    return said


def _one_run_each(comparison: Comparison) -> list[str]:
    """Returns who has the best score at the batches that several contenders ran, in a sentence."""
    places: dict[str, list[str]] = {}
    for batch in comparison.batches:
        known = [(one.label, cell.score) for one, cell in comparison.at(batch) if cell.score is not None]
        if comparison.of_batch(batch) and len(known) > 1:
            (name, best), *rest = sorted(known, key=lambda each: each[1], reverse=comparison.metric.higher)
            others = ", ".join(f"{rival} {loss(score)}" for rival, score in rest)
            places.setdefault(name, []).append(f"{batch:,} ({loss(best)}; {others})")
    won = "; ".join(f"{name} at batch {listed(at)}" for name, at in places.items())
    return [f"The best {comparison.metric.name} of one run each: {won}."] if won else []


def _spread(value: Interval | None) -> str:
    assert value is not None
    if value.low is None:
        return f"{value.mean:.4g} (one seed)"
    return f"{value.mean:.4g} (95 % interval {value.low:.4g} to {value.high:.4g})"


def _against(difference: Difference, rival: Cell) -> str:
    """Compares the best one with a rival, by their paired differences."""
    name, found, of = difference.second, difference.interval, len(rival.runs)
    lost = rival.diverged + rival.failed
    notes = [f"{lost} of {of} of its runs diverged or failed, and are left out"] if lost else []
    notes += [f"{rival.still} of {of} of its runs learned nothing"] if rival.still else []
    note = f" ({'; '.join(notes)})" if notes else ""
    if found is None:
        return f"{name} cannot be compared{note}."
    if found.low is None:
        return f"{name} has {rival.score:.4g}: one pair of seeds, which says nothing about chance{note}."
    interval = f"by {found.mean:.4g} (95 % interval {found.low:.4g} to {found.high:.4g}, {found.count} pairs)"
    p_value = "" if difference.p_value is None else f", p = {difference.p_value:.2g}"
    if found.low > 0:
        return f"The data support that it is better than {name}, {interval}{p_value}{note}."
    return f"The data do not distinguish it from {name}; it leads {interval}{p_value}{note}."


def _scaling(found: Scaling, comparison: Comparison) -> str:
    """Returns the examples to the target, and the critical batch."""
    name, target = found.entrant, comparison.metric.target
    if any(examples <= 0 for _, examples in found.points):
        return f"{name} reaches {target:g} before any training, so this target measures nothing."
    if not found.points:
        return f"{name} does not reach {target:g} at any batch, so its scaling is unknown."
    said = [_fitted(found, f"{target:g}")]
    said += [
        f"At batch {cell.batch:,} {len(cell.reached) or 'none'} of {len(cell.runs)} seeds reached it within the "
        f"{cell.num_examples:,} examples of a run, so this batch has no mean."
        for cell in found.missed
    ]
    if found.bound is not None and math.isfinite(found.bound.b_crit.mean):
        said.append(
            "If the other seeds had reached it when their runs ended, the critical batch would be "
            f"{found.bound.b_crit.mean:,.0f}; the real one is smaller."
        )
    return " ".join(said)


def _fitted(found: Scaling, target: str) -> str:
    name, batches = found.entrant, [cell.batch for cell in found.fitted]
    if found.fit is None:
        return (
            f"{name} reaches {target} with every seed at {len(batches)} "
            f"batch{'' if len(batches) == 1 else 'es'}: too few, or too uneven, to fit a critical batch."
        )
    critical, fewest = found.fit.b_crit, found.fit.e_min
    above = f"lies above {critical.low:,.0f}, if anywhere" if critical.low else "is not bounded either way"
    few = "" if len(batches) > 2 else " Two batches were fitted, which cannot show whether the curve has that form."
    if math.isinf(critical.mean):
        examples = [examples for batch, examples in found.points if batch in batches]
        return (
            f"{name} takes {sum(examples) / len(examples):,.0f} examples to {target} on the mean, no more at the "
            f"larger of batches {', '.join(f'{batch:,}' for batch in batches)}: its critical batch {above}.{few}"
        )
    base = (
        f"{name} needs at least {fewest.mean:,.0f} examples to {target} (95 % interval "
        f"{max(0, fewest.low or 0):,.0f} to {fewest.high:,.0f})"
    )
    if critical.high is None:
        return f"{base}. The data do not bound its critical batch from above; it {above}.{few}"
    inside = min(batches) <= critical.mean <= max(batches)
    doubt = "" if inside else " That lies outside the batches tried: it is an extrapolation."
    return (
        f"{base}, and its critical batch, at which the examples double, is {critical.mean:,.0f} (95 % "
        f"interval {critical.low:,.0f} to {critical.high:,.0f}, if E = E_min (1 + B/B_crit) holds).{doubt}{few}"
    )
