"""Advice from runs of other trainers: the noise scale that they logged, or two batches side by side."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anybatch.comparison.rows import crossing
from anybatch.elsewhere import Log, batch_of, is_log, read_log
from anybatch.errors import InputError
from anybatch.scaling import Reference, examples_at, noise_scale
from anybatch.study.advice import nearly_free_batch

# The entries of a log that a noise scale needs.
_FEWEST = 4


def advise_on_logs(folder: Path, batch_sizes: Mapping[str, int]) -> dict[str, Any]:
    """Reads every log in `folder` or directly below it.

    From two batches, E1 examples at B1 and E2 at B2 to one loss: E(B) = E_min (1 + B/B_crit) gives
    B_crit = (E1 B2 - E2 B1) / (E2 - E1). A logged noise scale is preferred: it needs one run, and has an interval.

    Returns:
        JSON values, save for infinite ones. `loss`: the loss that all runs reach, if they reach one. `critical_batch`:
        the batch at which examples double; infinite if nothing was lost. `source`: how it is known. `settings`: the
        smallest batch's run carried to other batches by the square-root rule, or in `no_settings` why there are none.
        Of a run, `lr_is_bound`: `lr` is the highest learning rate in the log, whose peak may lie between two entries.

    Raises:
        InputError: no log, one that cannot be read, or neither noise nor two batches with held-out losses.
    """
    folders = (
        [folder] if is_log(folder) else sorted(path for path in folder.iterdir() if path.is_dir() and is_log(path))
    )
    if not folders:
        raise InputError(f"{folder}: holds no trainer_state.json and no event files of TensorBoard, nor do its folders")
    logs = sorted((read_log(path, batch_of(path, batch_sizes)) for path in folders), key=lambda log: log.batch)
    finals = [log.of("eval_loss")[-1][1] for log in logs if log.of("eval_loss")]
    # No run reaches the loss of one that diverged.
    loss = max(finals) if len(finals) == len(logs) > 1 and all(map(math.isfinite, finals)) else None
    runs: list[dict[str, Any]] = [
        {
            "name": log.path.name,
            "optimizer": log.word("optimizer"),
            "batch_size": log.batch,
            "lr": log.peak[0] if log.peak else log.highest_rate,
            "lr_is_bound": log.peak is None,
            "num_steps": log.num_steps,
            "final_loss": log.of("eval_loss")[-1][1] if log.of("eval_loss") else None,
            "noise": _noise(log),
            "examples_to_loss": None if loss is None else _examples_to(log, loss),
        }
        for log in logs
    ]
    critical, source, free = _critical(runs)
    settings, none = _settings(logs[0], critical)
    return {
        "runs": runs,
        "loss": loss,
        "critical_batch": critical,
        "source": source,
        "nearly_free_batch": free,
        "settings": settings,
        "no_settings": none,
    }


def _noise(log: Log) -> dict[str, Any] | None:
    traces = dict(log.of("trace"))
    # The first quarter of a run, in which a model changes most, is not counted.
    known = [(square, traces[step]) for step, square in log.of("square") if step in traces and step > log.num_steps / 4]
    # A step that overflowed measured nothing.
    known = [pair for pair in known if all(map(math.isfinite, pair))]
    return asdict(noise_scale(*zip(*known, strict=True))) if len(known) >= _FEWEST else None


def _examples_to(log: Log, loss: float) -> float:
    found = crossing([(step, step * log.batch, value) for step, value in log.of("eval_loss")], loss, higher=False)
    return math.inf if found is None else found[1]


def _critical(runs: Sequence[Mapping[str, Any]]) -> tuple[float, str, int | None]:
    if (known := first_with_noise(runs)) is not None:
        noise = known["noise"]
        scale = noise["value"] if math.isfinite(noise["value"]) else noise["low"]
        return scale, f"the noise scale of {known['name']}", nearly_free_batch(noise["low"], known["batch_size"])
    first, last = runs[0], runs[-1]
    few, many = first["examples_to_loss"], last["examples_to_loss"]
    if first["batch_size"] == last["batch_size"] or few is None or many is None:
        raise InputError(
            "neither a gradient noise scale (integrations.trainer.prepare logs it) nor two runs at different batches "
            "with finite held-out losses: there is nothing to advise from"
        )
    critical = math.inf if many <= few else (few * last["batch_size"] - many * first["batch_size"]) / (many - few)
    return max(critical, 1.0), f"the examples of {first['name']} and {last['name']} to the same loss", None


def first_with_noise(runs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Returns the run of the smallest batch whose noise scale has a lower end."""
    return next((run for run in runs if run["noise"] is not None and 0 < run["noise"]["low"] < math.inf), None)


def _settings(log: Log, critical: float) -> tuple[list[dict[str, Any]], str]:
    if log.highest_rate is None:
        return [], f"no settings for other batches: the log of {log.path.name} has no learning rate"
    if log.peak is None:
        return [], (
            f"no settings for other batches: the log of {log.path.name} has a rate in {len(log.of('lr'))} of "
            f"{log.num_steps:,} steps, and the highest of them, {log.highest_rate:.3g}, need not be the peak that they "
            "would be scaled from; integrations.trainer.prepare records it, and logging_steps=1 shows it"
        )
    peak, warmup = log.peak
    ratio = min(warmup / log.num_steps, 0.99)
    reference = Reference(log.batch, lr=peak, warmup_ratio=ratio, num_examples=log.num_steps * log.batch)
    found = []
    for exponent in range(-2, 7):
        batch = round(log.batch * 2.0**exponent)
        try:
            run = reference.at(batch)
        # Fewer than one example, more than the run has, or nothing but warm-up.
        except ValueError:
            continue
        settings = {"batch_size": batch, "lr": run.lr, "warmup_steps": run.warmup_steps, "num_steps": run.num_steps}
        found.append({**settings, "multiplier": examples_at(1.0, log.batch, batch, critical)})
    return found, ""
