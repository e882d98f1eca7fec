"""Each finding of a study in a sentence: what the data support, and what they do not."""

from collections.abc import Mapping, Sequence
from typing import Any


def sentences(table: Mapping[str, Any]) -> list[str]:
    """What the table says, for somebody who reads nothing else."""
    said = _quality(table)
    said += [_scaling(row, table["declaration"]["target"]) for row in table["scaling"]]
    said += _doubts(table)
    return said


def headline(table: Mapping[str, Any]) -> str:
    """The answer in a sentence or two: who is best where, and at how many batches the data support it."""
    metric = table["metric_name"]
    best, supported = {}, 0
    for batch in table["declaration"]["batch_sizes"]:
        cells = [cell for cell in table["cells"] if cell["batch_size"] == batch and cell["final"]]
        if not cells:
            continue
        winner = _best(cells, table["higher_is_better"])["entrant"]
        best[batch] = winner
        supported += all(
            _clear(row, winner) for row in table["differences"] if _concerns(row, batch, winner)
        )  # fmt: skip
    if not best:
        return f"No run ended with a finite {metric}."
    if len(table["declaration"]["entrants"]) == 1:
        return sentences(table)[0]
    names = list(dict.fromkeys(best.values()))
    alone = len(table["declaration"]["seeds"]) == 1
    value = metric if alone else f"mean {metric}"
    where = (
        f"{names[0]} has the best {value} at every batch"
        if len(names) == 1
        else f"The best {value} is " + ", ".join(f"{name}'s at batch {batch:,}" for batch, name in best.items())
    )
    return f"{where}{_supported(table, best, supported, alone)}.{_reservations(table)}"


def _supported(table: Mapping[str, Any], best: Mapping[int, str], supported: int, alone: bool) -> str:
    if alone:
        return ", in one run each, which says nothing about chance"
    if supported:
        return f"; the data support that it is better than every other at {supported} of {len(best)}"
    apart = [
        f"{told[0]} is better than {told[1]} at batch {row['batch_size']:,}"
        for row in table["differences"]
        if (told := _told_apart(row)) is not None
    ]
    only = f", only that {' and that '.join(apart)}" if apart else ""
    return f"; at none of them do the data set it apart from all others{only}"


def _reservations(table: Mapping[str, Any]) -> str:
    """What a reader of the headline alone must know, too."""
    names = [entrant["name"] for entrant in table["declaration"]["entrants"]]
    never = [name for name in names if not any(cell["final"] for cell in table["cells"] if cell["entrant"] == name)]
    said = f" No run of {' or '.join(never)} ended with a number." if never else ""
    if any(cell["at_edge"] for cell in table["cells"]):
        said += " Some best rates are the last ones tried: wider ranges may change this."
    compared = sum(
        row["difference"] is not None and row["difference"]["low"] is not None for row in table["differences"]
    )
    if compared > 1 and any(_told_apart(row) for row in table["differences"]):
        said += f" (Each of {compared} comparisons by itself, at 95 %.)"
    return said


def _told_apart(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """(the better one, the worse one) where the interval of their difference leaves out zero."""
    difference = row["difference"]
    if difference is None or difference["low"] is None or difference["low"] <= 0 <= difference["high"]:
        return None
    pair = row["first"], row["second"]
    return pair if difference["low"] > 0 else pair[::-1]


def _clear(row: Mapping[str, Any], winner: str) -> bool:
    told = _told_apart(row)
    return told is not None and told[0] == winner


def _quality(table: Mapping[str, Any]) -> list[str]:
    said = []
    declared = table["declaration"]
    for batch in declared["batch_sizes"]:
        cells = [cell for cell in table["cells"] if cell["batch_size"] == batch and cell["final"]]
        if not cells:
            said.append(f"At batch {batch:,} no run ended with a finite {table['metric_name']}.")
            continue
        if len(declared["entrants"]) == 1:
            said.append(f"At batch {batch:,} {cells[0]['entrant']} ends at {_spread(cells[0]['final'])}.")
            continue
        best = _best(cells, table["higher_is_better"])
        rivals = [_verdict(table, best, row) for row in table["differences"] if _concerns(row, batch, best["entrant"])]
        others = [
            f"Of the others, {told[0]} is better than {told[1]}."
            for row in table["differences"]
            if row["batch_size"] == batch and not _concerns(row, batch, best["entrant"])
            if (told := _told_apart(row)) is not None
        ]
        said.append(
            f"At batch {batch:,} {best['entrant']} has the best mean {table['metric_name']}, "
            f"{_spread(best['final'])}. {' '.join(rivals + others)}"
        )
    return said


def _spread(value: Mapping[str, Any]) -> str:
    if value["low"] is None:
        return f"{value['mean']:.4g} (one seed)"
    return f"{value['mean']:.4g} (95 % interval {value['low']:.4g} to {value['high']:.4g})"


def _best(cells: Sequence[Mapping[str, Any]], higher: bool) -> Mapping[str, Any]:
    return (max if higher else min)(cells, key=lambda cell: cell["final"]["mean"])


def _concerns(row: Mapping[str, Any], batch: int, name: str) -> bool:
    return row["batch_size"] == batch and name in (row["first"], row["second"])


def _verdict(table: Mapping[str, Any], best: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """The best one against a rival, from their paired differences."""
    turned = row["second"] == best["entrant"]
    rival = row["first"] if turned else row["second"]
    difference = row["difference"]
    cell = next(cell for cell in table["cells"] if cell["batch_size"] == row["batch_size"] and cell["entrant"] == rival)
    lost, still = cell["diverged"] + cell["failed"], cell["still"]
    notes = [f"{lost} of {row['num_seeds']} of its runs diverged or failed, and are left out"] if lost else []
    notes += [f"{still} of {row['num_seeds']} of its runs learned nothing"] if still else []
    note = f" ({'; '.join(notes)})" if notes else ""
    if difference is None:
        return f"Of {rival} nothing can be compared{note}."
    if difference["low"] is None:
        return f"Against {rival} there is one pair of seeds, which says nothing about chance{note}."
    low, high = (-difference["high"], -difference["low"]) if turned else (difference["low"], difference["high"])
    mean = -difference["mean"] if turned else difference["mean"]
    interval = f"by {mean:.4g} (95 % interval {low:.4g} to {high:.4g}, {difference['count']} pairs)"
    p_value = "" if row["p_value"] is None else f", p = {row['p_value']:.2g}"
    if low > 0:
        return f"The data support that it is better than {rival}, {interval}{p_value}{note}."
    return f"The data do not tell it from {rival}, which it leads {interval}{p_value}{note}."


def _scaling(row: Mapping[str, Any], target: float) -> str:
    name, fit, fitted = row["entrant"], row["fit"], row["batches_fitted"]
    if any(examples <= 0 for _, examples in row["points"]):
        return f"{name} meets {target:g} before any training: a target that measures nothing."
    if not row["points"]:
        return f"{name} reaches {target:g} at no batch, so nothing can be said of its scaling."
    said = [_fitted(name, fit, fitted, row["points"], target)]
    said += [
        f"At batch {one['batch_size']:,} {one['reached'] or 'none'} of {one['of']} seeds got there in the "
        f"{one['num_examples']:,} examples of a run, and it has no mean."
        for one in row["missed"]
    ]
    if row["bound"] is not None and (high := row["bound"]["b_crit"]["mean"]) is not None:
        said.append(
            f"If the others had arrived as their runs ended, its critical batch would be {high:,.0f}: it is smaller."
        )
    return " ".join(said)


def _fitted(
    name: str, fit: Mapping[str, Any] | None, fitted: Sequence[int], points: Sequence[Sequence[float]], target: float
) -> str:
    if fit is None:
        return (
            f"{name} reaches {target:g} with every seed at {len(fitted)} "
            f"batch{'' if len(fitted) == 1 else 'es'}: too little, or too uneven, for a critical batch."
        )
    critical, fewest = fit["b_crit"], fit["e_min"]
    above = f"lies above {critical['low']:,.0f}, if anywhere" if critical["low"] else "is not bounded either way"
    few = "" if len(fitted) > 2 else " Two batches were fitted, which cannot show whether the curve has that form."
    if critical["mean"] is None:
        examples = [examples for batch, examples in points if batch in fitted]
        return (
            f"{name} takes {sum(examples) / len(examples):,.0f} examples to {target:g} on the mean, no more at the "
            f"larger of batches {', '.join(f'{batch:,}' for batch in fitted)}: its critical batch {above}.{few}"
        )
    base = (
        f"{name} needs at least {fewest['mean']:,.0f} examples to {target:g} (95 % interval "
        f"{max(0, fewest['low']):,.0f} to {fewest['high']:,.0f})"
    )
    if critical["high"] is None:
        return f"{base}. The data do not bound its critical batch from above; it {above}.{few}"
    inside = min(fitted) <= critical["mean"] <= max(fitted)
    doubt = "" if inside else " That lies outside the batches tried: it is an extrapolation."
    return (
        f"{base}, and its critical batch, at which that doubles, is {critical['mean']:,.0f} (95 % "
        f"interval {critical['low']:,.0f} to {critical['high']:,.0f}, if E = E_min (1 + B/B_crit) holds).{doubt}{few}"
    )


def _doubts(table: Mapping[str, Any]) -> list[str]:
    said = []
    declared = table["declaration"]
    edges = [
        f"{cell['entrant']} at {cell['batch_size']:,} ({cell['at_edge']} tried)"
        for cell in table["cells"]
        if cell["at_edge"]
    ]
    if edges:
        said.append(
            f"The best learning rate lies at the edge of its range for {', '.join(edges)}: a wider range may do better."
        )
    if declared["protocol"] == "untuned":
        said.append(
            "Nothing was tuned beyond the references: this compares the optimizers with these references and scaling "
            "rules, not the optimizers at their best."
        )
    else:
        runs = {cell["num_tuning_trials"] for cell in table["cells"]}
        said.append(
            f"Every optimizer had {', '.join(map(str, sorted(runs)))} tuning runs at each batch, with other seeds than "
            "those reported"
            + (
                ", and judged by the other half of the held-out data: their losses do not compare with the reported."
                if table["parts"]
                else "."
            )
        )
        said.append(
            "Intervals are over the seeds of the reported runs: what the choice of a rate by so few tuning runs leaves "
            "open is not in them."
        )
        if declared["target"] is not None:
            said.append(
                f"Rates were chosen by the final {table['metric_name']}, and steps to the target are read from the "
                "same runs: with rates chosen for the target it may be reached sooner."
            )
    open_trials = [trial for trial in table["trials"] if trial["state"] == "not run"]
    lost = [trial for trial in table["trials"] if trial["state"] in ("diverged", "failed")]
    if open_trials:
        said.append(f"{len(open_trials)} of {len(table['trials'])} trials have not run: the study is not finished.")
    if lost:
        said.append(f"{len(lost)} of {len(table['trials'])} trials diverged or failed; they are listed below.")
    still = [trial for trial in table["trials"] if trial["state"] == "learned nothing"]
    if still:
        reported = sum(trial["part"] == "reported" for trial in still)
        said.append(
            f"{len(still)} of {len(table['trials'])} trials, {reported} of them reported, ended within 2 % of the "
            f"untrained model's {table['metric_name']}: they learned nothing."
        )
    if len(declared["seeds"]) < 5 and len(declared["entrants"]) > 1:
        count = len(declared["seeds"])
        seeds = f"{count} seed{'' if count == 1 else 's'}"
        said.append(f"With {seeds} no p-values are given; intervals assume normal errors.")
    compared = sum(row["difference"] is not None for row in table["differences"])
    if compared > 1:
        said.append(
            f"The {compared} comparisons are made one by one, each at 95 %, and not corrected for their number: "
            "of twenty such intervals one misses by chance."
        )
    return said
