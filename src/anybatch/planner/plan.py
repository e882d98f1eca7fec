"""Chooses a batch and a number of devices: a sweep, then a deadline, a budget or diminishing returns."""

import math
import re
from collections.abc import Sequence
from typing import Any

from anybatch.errors import InputError
from anybatch.numbers import duration
from anybatch.planner.cluster import Cluster
from anybatch.planner.examples import Curve, Fixed, Law
from anybatch.planner.prediction import Prediction, predict
from anybatch.planner.workload import Workload

# Beyond the fewest device-hours by this factor, more devices mostly burn money.
THRIFT = 1.25
_MOST_DOUBLINGS = 24


def make_plan(
    workload: Workload,
    cluster: Cluster,
    *,
    num_devices: int | None = None,
    batch_size: int | None = None,
    deadline_s: float | None = None,
    budget: float | None = None,
) -> dict[str, Any]:
    """Sweeps devices and batches, unless they are given, and chooses a plan.

    With a deadline: the fewest device-hours that meet it. With a budget: the fastest within it. With both: the fastest
    that meets both. With neither: the point of diminishing returns, which is the fastest option within THRIFT of the
    fewest device-hours.

    Returns:
        options: the best prediction at each number of devices (at one number: at every batch), with is_chosen; chosen,
        and why; diminishing_returns: its devices and batch_size, None if the number of devices was given.

    Raises:
        InputError: an argument is wrong; nothing fits; or nothing meets the deadline or the budget.
    """
    if budget is not None and cluster.price is None:
        raise InputError(f"--budget needs a price: {cluster.name} has none; give --price, US dollars a device an hour")
    if num_devices is not None:
        cluster.check_devices(num_devices)
    counts = device_counts(cluster) if num_devices is None else [num_devices]
    batches = candidate_batches(workload) if batch_size is None else [batch_size]
    rows, refusal = _sweep(workload, cluster, counts, batches)
    if not rows:
        assert refusal is not None
        raise refusal
    if num_devices is None or batch_size is not None:
        options = [min(row, key=lambda option: (option["total_s"], option["batch_size"])) for row in rows]
    else:
        options = rows[0]
    thrifty = THRIFT * min(option["device_hours"] for option in options)
    knee = None
    if num_devices is None and len(options) > 1:
        knee = _fastest([option for option in options if option["device_hours"] <= thrifty])
    chosen, why = _choose(options, knee, deadline_s, budget)
    return {
        "chosen": {"why": why, **chosen, "is_chosen": True},
        "diminishing_returns": None if knee is None else {name: knee[name] for name in ("devices", "batch_size")},
        "options": [{**option, "is_chosen": option is chosen} for option in options],
    }


def device_counts(cluster: Cluster) -> list[int]:
    """Returns powers of two within a node, the whole node, then doubled nodes, up to the largest number."""
    node = cluster.devices_a_node
    counts = [2**power for power in range(_MOST_DOUBLINGS) if 2**power < node] + [node]
    while counts[-1] * 2 <= cluster.most_devices:
        counts.append(counts[-1] * 2)
    return counts


def candidate_batches(workload: Workload) -> list[int]:
    """Returns the workload's batch, halved and doubled, within the range for which its examples are known."""
    examples, own = workload.examples, workload.batch_size
    if isinstance(examples, Fixed):
        largest = float(max(own, examples.advised_batch or examples.largest_batch or own))
    elif isinstance(examples, Curve):
        largest = examples.points[-1][0]
    else:
        assert isinstance(examples, Law)
        largest = max(own, 4 * examples.critical_batch) if math.isfinite(examples.critical_batch) else 64.0 * own
        largest = min(largest, examples.reference_examples)
    ladder = {own * 2**power for power in range(_MOST_DOUBLINGS)} | {own // 2**power for power in range(12)}
    return sorted(batch for batch in ladder if 1 <= batch <= largest)


def parse_duration(text: str) -> float:
    """Returns the seconds of '90s', '45min', '2h', '1.5d'.

    Raises:
        InputError: anything else.

    Example:
        >>> parse_duration("1.5h")
        5400.0
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|m|h|d)\s*", text)
    if match is None or float(match[1]) <= 0:
        raise InputError(f"--deadline {text}: give a number above 0 and a unit: 90s, 45min, 2h or 1.5d")
    return float(match[1]) * {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}[match[2]]


def _sweep(
    workload: Workload, cluster: Cluster, counts: Sequence[int], batches: Sequence[int]
) -> tuple[list[list[Prediction]], InputError | None]:
    """Returns the possible predictions, by number of devices; and the last refusal."""
    rows, refusal = [], None
    for count in counts:
        row = []
        for batch in batches:
            try:
                row.append(predict(workload, cluster, count, batch))
            except InputError as error:
                refusal = error
        if row:
            rows.append(row)
    return rows, refusal


def _fastest(options: Sequence[Prediction]) -> Prediction:
    return min(options, key=lambda option: option["total_s"])


def _choose(
    options: Sequence[Prediction], knee: Prediction | None, deadline_s: float | None, budget: float | None
) -> tuple[Prediction, str]:
    if deadline_s is None and budget is None:
        if knee is not None:
            return (
                knee,
                "the point of diminishing returns: the fastest at no more than 1.25 times the fewest device-hours",
            )
        return _fastest(options), "the fastest"
    inside = [option for option in options if deadline_s is None or option["total_s"] <= deadline_s]
    if not inside:
        least = _fastest(options)
        raise InputError(
            f"--deadline: nothing is done in {duration(deadline_s or 0)}; the fastest is {duration(least['total_s'])} "
            f"on {least['devices']} devices at batch {least['batch_size']}"
        )
    paid = [option for option in inside if budget is None or (option["cost"] or 0) <= budget]
    if not paid:
        least = min(inside, key=lambda option: option["cost"] or 0)
        raise InputError(
            f"--budget {budget:g}: nothing{' within the deadline' if deadline_s else ''} costs so little; the cheapest "
            f"is {least['cost']:,.2f} US dollars on {least['devices']} devices at batch {least['batch_size']}"
        )
    if budget is None:
        return min(paid, key=lambda option: option["device_hours"]), "the fewest device-hours within the deadline"
    return _fastest(paid), "the fastest within the budget" + (" and the deadline" if deadline_s else "")
