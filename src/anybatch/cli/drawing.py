"""What commands print of the values that the rooms return: tables, a plot, and sentences."""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from anybatch.columns import aligned
from anybatch.numbers import duration, hyperparameter

_SIZES = ("sequence_length", "image_size")
_ROWS = 8
_LONG = 40
_BARS = " ▁▂▃▄▅▆▇█"


def options_text(options: Mapping[str, Mapping[str, Any]]) -> str:
    """Name, value and line of each option; a value that is long, such as `inferred`, has a line of its own."""
    rows = [(name, json.dumps(option["value"], ensure_ascii=False), option["line"]) for name, option in options.items()]
    first, second = (max(len(row[n]) for row in rows if len(row[n]) <= _LONG) for n in (0, 1))
    return "\n".join(
        f"{name:<{first}}  {value:<{second}}  {line}" if len(value) <= _LONG else f"{name:<{first}}  {value}"
        for name, value, line in rows
    )


def preview_text(found: dict[str, Any]) -> str:
    """`preview_recipe`'s answer for a terminal: a table, a plot of the learning rate, and two estimates."""
    size = next(name for name in _SIZES if name in found["phases"][0])
    names = ("batch_size", size, "num_steps", "num_examples", "lr", "warmup_steps", "carry_over",
             "micro_batch_size")  # fmt: skip
    table = [[name.removeprefix("num_").replace("_", " ") for name in names]]
    for phase in found["phases"]:
        table.append([f"{phase[n]:,}" if isinstance(phase[n], int) else f"{phase[n]:.4g}" if n == "lr" else phase[n]
                      for n in names])  # fmt: skip
    lines = [*aligned(table), "", *_hyperparameters(found)]
    rates = [point["lr"] for point in found["learning_rates"]]
    lines += ["", f"learning rate over {found['num_steps']:,} steps", *plot(rates), ""]
    memory = found["memory_bytes_a_rank"]
    lines.append(f"memory: about {memory / 2**20:,.0f} MiB a process for {found['parameters']:,} parameters, their "
                 "gradients, the optimizer's state and a micro-batch; Python and PyTorch take 0.4 GB more")  # fmt: skip
    processes = "1 process" if found["num_ranks"] == 1 else f"{found['num_ranks']} processes"
    lines.append(f"time: about {duration(found['time_s'])} on {processes} like this one, "
                 "from a micro-batch, or a part of one, timed now")  # fmt: skip
    if found["stand_in"]:
        lines.append(f"data: {found['stand_in']}, for data.path is not set")
    lines += [f"inferred, not in the source: {each}" for each in found["inferred"]]
    return "\n".join(lines)


def _hyperparameters(found: dict[str, Any]) -> list[str]:
    """What the optimizer is given beside the learning rate, in each phase; one line if it is the same in all."""
    shown = []
    for phase in found["phases"]:
        settings = (f"{name.replace('_', ' ')} {hyperparameter(x)}" for name, x in phase["hyperparameters"].items())
        shown.append(f"{found['optimizer']}: {', '.join(settings)}")
    fixed = f"; {', '.join(found['fixed'])} set after scaling" if found["fixed"] else ""
    rule = f" ({found['reference']['rule']} rule from batch {found['reference']['batch_size']:,}{fixed})"
    if len(set(shown)) == 1:
        return [shown[0] + rule]
    return [f"phase {number}: {line}{rule}" for number, line in enumerate(shown, 1)]


def plot(values: list[float]) -> list[str]:
    """A column for each value, 8 rows high, with the greatest one beside the first row and 0 beside the last."""
    top = max(values) or 1.0
    heights = [value / top * _ROWS * (len(_BARS) - 1) for value in values]
    rows = []
    for row in reversed(range(_ROWS)):
        label = f"{top:9.3g}" if row == _ROWS - 1 else f"{0:9d}" if row == 0 else " " * 9
        levels = (min(max(math.ceil(height) - row * (len(_BARS) - 1), 0), len(_BARS) - 1) for height in heights)
        rows.append(f"{label} {''.join(_BARS[level] for level in levels)}".rstrip())
    return rows


def plan_text(found: Mapping[str, Any]) -> str:
    """The table, the choice, where its time goes, and how to start it."""
    chosen, calibration = found["chosen"], found["calibration"]
    devices = "1 device" if chosen["devices"] == 1 else f"{chosen['devices']} devices"
    lines = [
        f"{found['workload']} ({found['optimizer']}, {found['precision']}) on {found['cluster']}: {found['title']}",
        f"MFU {found['mfu']:.1%} of {found['peak_flops'] / 1e12:.3g} TFLOP/s in {found['precision']}: "
        f"{found['mfu_source']}" + (f"; before: {calibration['before']:.1%}" if calibration else ""),
        *(f"supposed: {each}" for each in found["supposed"]),
        "",
        *_plan_table(found),
        "",
        f"* {chosen['why']}: {devices}, batch {chosen['batch_size']:,}, {duration(chosen['total_s'])}",
    ]
    for phase in chosen["phases"]:
        parts = ", ".join(
            f"{name.replace('_', '-')} {1e3 * value:.3g}" for name, value in phase["step_parts_s"].items() if value > 0
        )
        lines.append(
            f"  {phase['title']}: {phase['num_steps']:,} steps of {phase['batch_size']:,}, {1e3 * phase['step_s']:.4g} "
            f"ms each ({parts}); {phase['layout']}, micro-batch {phase['micro_batch_size']}, "
            f"{phase['memory_bytes'] / 1e9:.1f} GB a device"
        )
    lines.append(
        f"  besides: start {duration(chosen['start_s'])}, evaluation {duration(chosen['evaluation_s'])}, checkpoints "
        f"{duration(chosen['checkpoint_s'])}"
    )
    if found["price"] is not None:
        lines.append(f"  price: {found['price']:g} US dollars a device an hour; {found['price_source']}")
    if found["is_published"]:
        lines += ["", f"{found['workload']} is a published run, which has no command here; a plan of a recipe has one"]
    if started := found["commands"]:
        lines += [
            "",
            "on every node:" if "$NODE_RANK" in started[0] else "start it:",
            *(f"  {each}" for each in started),
        ]
        if not any("data.path=" in each for each in started):
            lines.append("  with --set data.path=FOLDER for data of your own")
    return "\n".join(lines)


def _plan_table(found: Mapping[str, Any]) -> list[str]:
    rows = [["", "devices", "batch", "steps", "examples", "time", "device-hours", "US$", "kWh", "layout"]]
    for option in found["options"]:
        rows.append(
            [
                "*" if option["is_chosen"] else "",
                f"{option['devices']:,}",
                f"{option['batch_size']:,}",
                f"{option['num_steps']:,}",
                f"{option['num_examples']:.4g}",
                duration(option["total_s"]),
                f"{option['device_hours']:,.1f}",
                "-" if option["cost"] is None else f"{option['cost']:,.2f}",
                "-" if option["energy_kwh"] is None else f"{option['energy_kwh']:,.1f}",
                option["phases"][0]["layout"],
            ]
        )
    # A column that says nothing is left out.
    kept = [column for column in zip(*rows, strict=True) if set(column[1:]) != {"-"}]
    return aligned(list(zip(*kept, strict=True)))


def bench_text(result: Mapping[str, Any]) -> Iterator[str]:
    """A table for each set of shapes of `anybatch bench`."""
    from anybatch.machine.measured import COLUMNS, conditions, findings, rows, title

    yield conditions(result)
    for found in result["sets"]:
        yield f"\n{title(found)}"
        if cells := list(rows(found)):
            yield ""
            yield from (f"  {line}" for line in aligned([COLUMNS, *cells], left=1))
            yield ""
        yield from (f"  {line}" for line in findings(found))


def histogram(counts: dict[int, int], width: int = 40) -> list[str]:
    """Draws a bar for each count, the longest `width` characters.

    >>> histogram({1: 2, 2: 0, 4: 4}, width=4)
    ['      1  ██  2', '      2    0', '      4  ████  4']
    """
    most = max(counts.values())
    column = max(7, len(f"{max(counts):,}"))
    return [f"{length:{column},}  {'█' * -(-count * width // most)}  {count:,}" for length, count in counts.items()]
