"""What `anybatch advise` and a dry run of `anybatch study` print of the values that the rooms return."""

import math
from collections.abc import Mapping
from typing import Any

from anybatch.columns import aligned
from anybatch.scaling import examples_at
from anybatch.study.own_runs import first_with_noise

# Below this margin the rule's learning rate is one bad seed away from divergence.
_CLOSE = 2.0
_NOISIEST_LAYERS = 5
_SETTINGS = ("batch", "rate", "warm-up", "steps")


def noise_text(advice: Mapping[str, Any]) -> str:
    """The advice by gradient noise in words and a table."""
    noise, rates, grown, free = (advice[name] for name in ("noise_scale", "rate_range", "growth", "nearly_free_batch"))
    lines = [
        f"{advice['recipe']} ({advice['optimizer']}), {advice['num_steps']} steps at batch "
        f"{advice['measured_batch_size']}",
        "",
        f"gradient noise scale  {_interval(noise)}",
    ]
    if advice["preconditioned_noise_scale"] is not None:
        lines.append(f"preconditioned        {_interval(advice['preconditioned_noise_scale'])}")
        lines.append("The plain one is used below; the preconditioned one, usually larger, is what to hope for.")
    noisiest = sorted(advice["layers"].items(), key=lambda item: -item[1]["noise_trace"])[:_NOISIEST_LAYERS]
    rows = [
        [
            *_settings(c), f"{c['num_examples']:,}",
            f"{c['multiplier']:.2f} ({c['multiplier_low']:.2f} to {c['multiplier_high']:.2f})",
            f"{c['speed_up']:.1f}x fewer" if c["speed_up"] >= 1 else f"{1 / c['speed_up']:.1f}x more",
            "nearly free" if c["nearly_free"] else "",
        ]
        for c in advice["candidates"]
    ]  # fmt: skip
    tested = f"rate at batch {free}: {rates['tested']:.3g}"
    if rates["lost_at"] is None:
        margin = f"{tested}; nothing was lost up to {rates['highest']:.3g}"
    elif rates["margin"] < _CLOSE:
        margin = (
            f"WARNING: at batch {free} the loss is lost at a rate of {rates['lost_at']:.3g}, "
            f"{rates['margin']:.1f} times the rule's {rates['tested']:.3g}: choose a lower reference.lr"
        )
    else:
        margin = f"{tested}; the loss is lost at {rates['lost_at']:.3g}, {rates['margin']:.1f} times that"
    value, low, high = (_number(noise[name]) for name in ("value", "low", "high"))
    lines += [
        "", "most of the noise:", *(f"  {name}: {_interval(layer)}" for name, layer in noisiest), "",
        f"nearly free up to batch {free}: at most a quarter more examples than at the smallest",
        f"examples double at batch {value} (from {low} to {high})", "",
        *_table([*_SETTINGS, "examples", "over the reference's", "steps", ""], rows), "", margin,
    ]  # fmt: skip
    if grown["grows"]:
        early, late = (phase["batch_size"] for phase in grown["phases"])
        lines.append(
            f"the noise grew from {_number(grown['early']['value'])} to {_number(grown['late']['value'])}: "
            f"start at batch {early}, and continue at {late}"
        )
    best = max((c["batch_size"] for c in advice["candidates"] if c["nearly_free"]), default=None)
    lines += ["", "to paste, the largest nearly free batch marked by *:"]
    return "\n".join(
        [*lines, *(f"{'*' if c['batch_size'] == best else ' '} {c['command']}" for c in advice["candidates"])]
    )


def branches_text(values: Mapping[str, Any]) -> str:
    """The critical batch over training in words and a table."""
    rows = []
    for point in values["critical_batch"]:
        crossing = "nowhere" if point["value"] is None else f"{point['value']:,.0f}"
        high = "not shown" if point["high"] is None else f"{point['high']:,}"
        rows.append([f"{point['examples']:,}", f"{point['low']:,}", crossing, high])
    fit, stages = values["fit"], values["ramp"]
    lines = [
        f"{values['recipe']} ({values['optimizer']}): the largest batch that ends within {values['tolerance']:g} of "
        f"batch {values['batch_size']}, by branches of the run",
        "",
        *_table(["after examples", "loses nothing", "crosses the tolerance", "loses more"], rows),
        "",
        "the critical batch grows as {scale:.3g} x examples^{exponent:.2f}".format(**fit)
        if fit
        else "too few points cross the tolerance for a fit over training",
    ]
    if len(stages) == 1:
        return "\n".join([*lines, f"no ramp follows: batch {stages[0][1]:,} throughout"])
    shown = ", ".join(f"{batch:,} for {share:.0%}" for share, batch in stages)
    lines += [f"the ramp that follows: {shown} of the examples", "", "to paste:", f"  {values['command']}"]
    return "\n".join(lines)


def logs_text(advice: Mapping[str, Any]) -> str:
    """The advice by other trainers' logs in words and tables."""
    runs, loss, settings = advice["runs"], advice["loss"], advice["settings"]
    head = ["run", "optimizer", "batch", "rate", "steps", "final loss", "noise scale"]
    head += [f"examples to {_number(loss, '.4g')}"] * (loss is not None)
    rows = [
        [
            run["name"], run["optimizer"] or "-", f"{run['batch_size']:,}",
            ">=" * (run["lr_is_bound"] and run["lr"] is not None) + _number(run["lr"], ".3g"), f"{run['num_steps']:,}",
            _number(run["final_loss"], ".4g"), "-" if run["noise"] is None else _interval(run["noise"], ",.3g", ""),
            _number(run["examples_to_loss"]),
        ][: len(head)]
        for run in runs
    ]  # fmt: skip
    lines = _table(head, rows)
    if any(run["lr_is_bound"] and run["lr"] for run in runs):
        lines.append(">=: the highest learning rate in the log; the run's highest may lie between two entries")
    lines += ["", f"examples double at {_bound(advice)}, by {advice['source']}"]
    if advice["nearly_free_batch"] is not None:
        lines.append(
            f"nearly free up to batch {advice['nearly_free_batch']:,}, a quarter of the lower end of the noise scale: "
            "at most a quarter more examples than at the smallest batch"
        )
        lines += _measured_beside(advice)
    if advice["no_settings"]:
        lines += ["", advice["no_settings"]]
    if settings:
        title = f"from {runs[0]['name']}, by the square-root rule; examples by {advice['source']}:"
        rows = [[*_settings(s), f"{s['multiplier']:.2f}"] for s in settings]
        lines += ["", title, *_table([*_SETTINGS, "examples, times"], rows)]
    return "\n".join(lines)


def _bound(advice: Mapping[str, Any]) -> str:
    if math.isinf(advice["critical_batch"]):
        return "no batch tried"
    known = first_with_noise(advice["runs"])
    if known is None:
        return f"batch {advice['critical_batch']:,.0f}"
    noise = known["noise"]
    return f"batch {noise['low']:,.0f} or more" if math.isinf(noise["value"]) else f"batch {_interval(noise, end='')}"


def _measured_beside(advice: Mapping[str, Any]) -> list[str]:
    """What each larger run took to the common loss, and what the noise scale says it should have taken."""
    first, *others = advice["runs"]
    lines = []
    for run in others:
        if (
            run["batch_size"] > first["batch_size"]
            and run["examples_to_loss"] is not None
            and first["examples_to_loss"]
        ):
            expected = examples_at(1.0, first["batch_size"], run["batch_size"], advice["critical_batch"])
            took = run["examples_to_loss"] / first["examples_to_loss"]
            lines.append(
                f"{run['name']} took {took:.2f} times the examples of {first['name']} to loss "
                f"{_number(advice['loss'], '.4g')}; the noise scale alone makes it {expected:.2f}"
                + (": what is beyond is due to its optimizer, rate and warm-up" if took > 1.25 * expected else "")
            )
    return lines


def _settings(values: Mapping[str, Any]) -> list[str]:
    """The cells of the columns `_SETTINGS`."""
    return [
        f"{values['batch_size']:,}", f"{values['lr']:.3g}", f"{values['warmup_steps']:,}", f"{values['num_steps']:,}",
    ]  # fmt: skip


def study_text(planned: Mapping[str, Any]) -> str:
    """What a study would run."""
    head = [name.replace("_", " ") for name in planned["runs"][0]]
    rows = [
        ["?" if value is None else f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()]
        for row in planned["runs"]
    ]
    target = "" if planned["target"] is None else f", and steps to {planned['target']:g}"
    known = planned["examples"]
    examples = "examples: known once the data are" if known is None else f"{known:,} examples"
    measured = f"Measured: the final {planned['metric']}{target}."
    lines = [f"{planned['study']}: {planned['question']}", "", *planned["setting"], measured, *planned["open"]]
    return "\n".join([*lines, "", *_table(head, rows), "", f"{planned['trials']} trials, {examples} in all"])


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [line.rstrip() for line in aligned([head, *rows])]


def _interval(noise: Mapping[str, Any], form: str = ",.0f", end: str = ", 95 %") -> str:
    value, low, high = (_number(noise[name], form) for name in ("value", "low", "high"))
    return f"{value} ({low} to {high}{end})"


def _number(value: float | None, form: str = ",.0f") -> str:
    return "-" if value is None else format(value, form) if math.isfinite(value) else "unbounded"
