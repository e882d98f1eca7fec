"""What `anybatch advise` and a dry run of `anybatch study` print of the values that the rooms return."""

import math
from collections.abc import Mapping
from typing import Any

from anybatch.columns import aligned
from anybatch.scaling import NoiseScale, examples_at
from anybatch.study.advise import Advice
from anybatch.study.own_runs import OwnAdvice, OwnRun, first_with_noise

# Below this margin the rule's learning rate is one bad seed away from divergence.
_CLOSE = 2.0
_NOISIEST_LAYERS = 5


def noise_text(advice: Advice) -> str:
    """The advice by gradient noise in words and a table."""
    noise, rates = advice.noise, advice.rates
    lines = [
        f"{advice.recipe} ({advice.optimizer}), {advice.num_steps} steps at batch {advice.measured_batch}",
        "",
        f"gradient noise scale  {_interval(noise)}",
    ]
    if advice.preconditioned is not None:
        lines.append(f"preconditioned        {_interval(advice.preconditioned)}")
        lines.append("The plain one is used below; the preconditioned one, usually larger, is what to hope for.")
    noisiest = sorted(advice.layers.items(), key=lambda item: -item[1].noise_trace)[:_NOISIEST_LAYERS]
    rows = [["batch", "rate", "warm-up", "steps", "examples", "over the reference's", "steps", ""]]
    rows += [
        [
            f"{c.batch_size:,}", f"{c.lr:.3g}", f"{c.warmup_steps:,}", f"{c.num_steps:,}", f"{c.num_examples:,}",
            f"{c.multiplier:.2f} ({c.multiplier_low:.2f} to {c.multiplier_high:.2f})",
            f"{c.speed_up:.1f}x fewer" if c.speed_up >= 1 else f"{1 / c.speed_up:.1f}x more",
            "nearly free" if c.nearly_free else "",
        ]
        for c in advice.candidates
    ]  # fmt: skip
    tested = f"rate at batch {advice.nearly_free}: {rates.tested:.3g}"
    if rates.lost_at is None:
        margin = f"{tested}; nothing was lost up to {rates.highest:.3g}"
    elif rates.margin < _CLOSE:
        margin = (
            f"WARNING: at batch {advice.nearly_free} the loss is lost at a rate of {rates.lost_at:.3g}, "
            f"{rates.margin:.1f} times the rule's {rates.tested:.3g}: choose a lower reference.lr"
        )
    else:
        margin = f"{tested}; the loss is lost at {rates.lost_at:.3g}, {rates.margin:.1f} times that"
    lines += [
        "", "most of the noise:", *(f"  {name}: {_interval(layer)}" for name, layer in noisiest), "",
        f"nearly free up to batch {advice.nearly_free}: at most a quarter more examples than at the smallest",
        f"examples double at batch {_number(noise.value)} (from {_number(noise.low)} to {_number(noise.high)})",
        "", *_table(rows), "", margin,
    ]  # fmt: skip
    if advice.growth.grows:
        early, late = advice.growth.batches(advice.reference_batch)
        lines.append(
            f"the noise grew from {_number(advice.growth.early.value)} to {_number(advice.growth.late.value)}: "
            f"start at batch {early}, and continue at {late}"
        )
    best = max((c.batch_size for c in advice.candidates if c.nearly_free), default=None)
    lines += ["", "to paste, the largest nearly free batch marked by *:"]
    return "\n".join([*lines, *(f"{'*' if c.batch_size == best else ' '} {c.command}" for c in advice.candidates)])


def branches_text(values: Mapping[str, Any]) -> str:
    """The critical batch over training in words and a table."""
    rows = [["after examples", "loses nothing", "crosses the tolerance", "loses more"]]
    for point in values["critical_batch"]:
        crossing = "nowhere" if point["value"] is None else f"{point['value']:,.0f}"
        high = "not shown" if point["high"] is None else f"{point['high']:,}"
        rows.append([f"{point['examples']:,}", f"{point['low']:,}", crossing, high])
    fit, stages = values["fit"], values["ramp"]
    lines = [
        f"{values['recipe']} ({values['optimizer']}): the largest batch that ends within {values['tolerance']:g} of "
        f"batch {values['batch_size']}, by branches of the run",
        "",
        *_table(rows),
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


def logs_text(advice: OwnAdvice) -> str:
    """The advice by other trainers' logs in words and tables."""
    head = ["run", "optimizer", "batch", "rate", "steps", "final loss", "noise scale"]
    head += [f"examples to {_number(advice.loss, '.4g')}"] * (advice.loss is not None)
    rows = [
        [
            run.name, run.optimizer or "-", f"{run.batch_size:,}", _at_least(run), f"{run.num_steps:,}",
            _number(run.final_loss, ".4g"), "-" if run.noise is None else _interval(run.noise, ",.3g", ""),
            _number(run.examples_to_loss),
        ][: len(head)]
        for run in advice.runs
    ]  # fmt: skip
    lines = _table([head, *rows])
    if any(run.lr_is_bound and run.lr for run in advice.runs):
        lines.append(">=: the highest rate that the log has; the run's peak may lie between two entries")
    lines += ["", f"examples double at {_bound(advice)}, by {advice.source}"]
    if advice.nearly_free_batch is not None:
        lines.append(
            f"nearly free up to batch {advice.nearly_free_batch:,}, a quarter of the lower end of the noise scale: at "
            "most a quarter more examples than at the smallest batch"
        )
        lines += _measured_beside(advice)
    if advice.no_settings:
        lines += ["", advice.no_settings]
    if advice.settings:
        rows = [["batch", "rate", "warm-up", "steps", "examples, times"]]
        rows += [
            [f"{s.batch_size:,}", f"{s.lr:.3g}", f"{s.warmup_steps:,}", f"{s.num_steps:,}", f"{s.multiplier:.2f}"]
            for s in advice.settings
        ]
        title = f"from {advice.runs[0].name}, by the square-root rule; examples by {advice.source}:"
        lines += ["", title, *_table(rows)]
    return "\n".join(lines)


def _bound(advice: OwnAdvice) -> str:
    if math.isinf(advice.critical_batch):
        return "no batch tried"
    known = first_with_noise(advice.runs)
    if advice.nearly_free_batch is None or known is None:
        return f"batch {advice.critical_batch:,.0f}"
    noise = known[1]
    return f"batch {noise.low:,.0f} or more" if math.isinf(noise.value) else f"batch {_interval(noise, end='')}"


def _measured_beside(advice: OwnAdvice) -> list[str]:
    """What each larger run took to the common loss, and what the noise scale says it should have taken."""
    first, *others = advice.runs
    lines = []
    for run in others:
        if run.batch_size > first.batch_size and run.examples_to_loss is not None and first.examples_to_loss:
            expected = examples_at(1.0, first.batch_size, run.batch_size, advice.critical_batch)
            took = run.examples_to_loss / first.examples_to_loss
            lines.append(
                f"{run.name} took {took:.2f} times the examples of {first.name} to loss {_number(advice.loss, '.4g')}; "
                f"the noise scale alone makes it {expected:.2f}"
                + (": what is beyond is due to its optimizer, rate and warm-up" if took > 1.25 * expected else "")
            )
    return lines


def _at_least(run: OwnRun) -> str:
    return ">=" * (run.lr_is_bound and run.lr is not None) + _number(run.lr, ".3g")


def study_text(planned: Mapping[str, Any]) -> str:
    """What a study would run."""
    rows = [[name.replace("_", " ") for name in planned["runs"][0]]]
    rows += [
        ["?" if value is None else f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()]
        for row in planned["runs"]
    ]
    target = "" if planned["target"] is None else f", and steps to {planned['target']:g}"
    known = planned["examples"]
    examples = "examples: known once the data are" if known is None else f"{known:,} examples"
    measured = f"Measured: the final {planned['metric']}{target}."
    lines = [f"{planned['study']}: {planned['question']}", "", *planned["setting"], measured, *planned["open"]]
    return "\n".join([*lines, "", *_table(rows), "", f"{planned['trials']} trials, {examples} in all"])


def _table(rows: list[list[str]]) -> list[str]:
    return [line.rstrip() for line in aligned(rows)]


def _interval(noise: NoiseScale, form: str = ",.0f", end: str = ", 95 %") -> str:
    value, low, high = (_number(each, form) for each in (noise.value, noise.low, noise.high))
    return f"{value} ({low} to {high}{end})"


def _number(value: float | None, form: str = ",.0f") -> str:
    return "-" if value is None else format(value, form) if math.isfinite(value) else "unbounded"
