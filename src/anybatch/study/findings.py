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
    metric = table["declaration"]["metric"]
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
    where = (
        f"{names[0]} has the best mean {metric} at every batch"
        if len(names) == 1
        else f"The best mean {metric} is " + ", ".join(f"{name}'s at batch {batch:,}" for batch, name in best.items())
    )
    claim = (
        "at none of them do the data set it apart from all others"
        if not supported
        else f"the data support that it is better than every other at {supported} of {len(best)}"
    )
    return f"{where}; {claim}."


def _clear(row: Mapping[str, Any], winner: str) -> bool:
    """Whether the interval of a difference lies on the winner's side of zero."""
    difference = row["difference"]
    if difference is None or difference["low"] is None:
        return False
    return bool(difference["low"] > 0 if row["first"] == winner else difference["high"] < 0)


def _quality(table: Mapping[str, Any]) -> list[str]:
    said = []
    declared = table["declaration"]
    for batch in declared["batch_sizes"]:
        cells = [cell for cell in table["cells"] if cell["batch_size"] == batch and cell["final"]]
        if not cells:
            said.append(f"At batch {batch:,} no run ended with a finite {declared['metric']}.")
            continue
        if len(declared["entrants"]) == 1:
            said.append(f"At batch {batch:,} {cells[0]['entrant']} ends at {_spread(cells[0]['final'])}.")
            continue
        best = _best(cells, table["higher_is_better"])
        rivals = [_verdict(table, best, row) for row in table["differences"] if _concerns(row, batch, best["entrant"])]
        said.append(
            f"At batch {batch:,} {best['entrant']} has the best mean {declared['metric']}, "
            f"{_spread(best['final'])}. {' '.join(rivals)}"
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
    lost = next(
        cell["diverged"] + cell["failed"]
        for cell in table["cells"]
        if cell["batch_size"] == row["batch_size"] and cell["entrant"] == rival
    )
    note = f" ({lost} of {row['num_seeds']} of its runs diverged or failed, and are left out)" if lost else ""
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
    return f"They do not tell it from {rival}: it is ahead {interval}{p_value}{note}."


def _scaling(row: Mapping[str, Any], target: float) -> str:
    name, fit, fitted = row["entrant"], row["fit"], row["batches_fitted"]
    if any(examples <= 0 for _, examples in row["points"]):
        return f"{name} meets {target:g} before any training: a target that measures nothing."
    if not row["points"]:
        return f"{name} reaches {target:g} at no batch, so nothing can be said of its scaling."
    if fit is None:
        return (
            f"{name} reaches {target:g} with every seed at {len(fitted)} "
            f"batch{'' if len(fitted) == 1 else 'es'}: too little, or too uneven, for a critical batch."
        )
    critical, fewest = fit["b_crit"], fit["e_min"]
    base = f"{name} needs at least {fewest['mean']:,.0f} examples ({fewest['low']:,.0f} to {fewest['high']:,.0f})"
    if critical["high"] is None:
        low = critical["low"]
        bound = "" if not low else f"; it lies above {low:,.0f}, if anywhere"
        return f"{base} to {target:g}. The data do not bound its critical batch from above{bound}."
    inside = min(fitted) <= critical["mean"] <= max(fitted)
    doubt = "" if inside else " That lies outside the batches tried: it is an extrapolation."
    return (
        f"{base} to {target:g}, and its critical batch, at which that doubles, is {critical['mean']:,.0f} (95 % "
        f"interval {critical['low']:,.0f} to {critical['high']:,.0f}, if E = E_min (1 + B/B_crit) holds).{doubt}"
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
            "those reported" + (" and judged by the other half of the held-out data." if table["parts"] else ".")
        )
    open_trials = [trial for trial in table["trials"] if trial["state"] == "not run"]
    lost = [trial for trial in table["trials"] if trial["state"] in ("diverged", "failed")]
    if open_trials:
        said.append(f"{len(open_trials)} of {len(table['trials'])} trials have not run: the study is not finished.")
    if lost:
        said.append(f"{len(lost)} of {len(table['trials'])} trials diverged or failed; they are listed below.")
    if len(declared["seeds"]) < 5 and len(declared["entrants"]) > 1:
        said.append(f"With {len(declared['seeds'])} seeds no p-values are given; intervals assume normal errors.")
    elif len(declared["entrants"]) > 2 or len(declared["batch_sizes"]) > 1:
        said.append("The intervals and p-values are of one comparison each, not corrected for their number.")
    return said
