"""Advice from runs of other trainers: the noise scale that they logged, or two batches side by side."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anybatch.comparison.rows import crossing
from anybatch.elsewhere import Log, batch_of, is_log, read_log
from anybatch.errors import InputError
from anybatch.numbers import null_for_nonfinite
from anybatch.scaling import NoiseScale, Reference, examples_at, noise_scale
from anybatch.study.advice import nearly_free_batch

# The entries of a log that a noise scale needs.
_FEWEST = 4


@dataclass(frozen=True)
class OwnRun:
    """One run: its noise scale, if it logged one; examples to the loss that all runs reach, if they reach one.

    `lr_is_bound`: `lr` is the highest learning rate in the log; the run's peak may lie between two entries.
    """

    name: str
    optimizer: str | None
    batch_size: int
    lr: float | None
    lr_is_bound: bool
    num_steps: int
    final_loss: float | None
    noise: NoiseScale | None
    examples_to_loss: float | None


@dataclass(frozen=True)
class Settings:
    """The smallest batch's run carried to another batch by the square-root rule, and the examples that it costs."""

    batch_size: int
    lr: float
    warmup_steps: int
    num_steps: int
    multiplier: float


@dataclass(frozen=True)
class OwnAdvice:
    """`critical_batch`: the batch at which examples double; infinite if nothing was lost. `source`: how it is known.

    `no_settings`: why there are none; empty if there are.
    """

    runs: Sequence[OwnRun]
    loss: float | None
    critical_batch: float
    source: str
    nearly_free_batch: int | None
    settings: Sequence[Settings]
    no_settings: str


def advise_on_logs(folder: Path, batch_sizes: Mapping[str, int]) -> OwnAdvice:
    """Reads every log in `folder` or directly below it.

    From two batches, E1 examples at B1 and E2 at B2 to one loss: E(B) = E_min (1 + B/B_crit) gives
    B_crit = (E1 B2 - E2 B1) / (E2 - E1). A logged noise scale is preferred: it needs one run, and has an interval.

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
    runs = [
        OwnRun(
            name=log.path.name,
            optimizer=log.word("optimizer"),
            batch_size=log.batch,
            lr=log.peak[0] if log.peak else log.highest_rate,
            lr_is_bound=log.peak is None,
            num_steps=log.num_steps,
            final_loss=log.of("eval_loss")[-1][1] if log.of("eval_loss") else None,
            noise=_noise(log),
            examples_to_loss=None if loss is None else _examples_to(log, loss),
        )
        for log in logs
    ]
    critical, source, free = _critical(runs)
    return OwnAdvice(runs, loss, critical, source, free, *_settings(logs[0], critical))


def to_values(advice: OwnAdvice) -> dict[str, Any]:
    """Returns values for JSON; None for a missing bound."""
    return null_for_nonfinite(asdict(advice))  # type: ignore[no-any-return]


def _noise(log: Log) -> NoiseScale | None:
    traces = dict(log.of("trace"))
    # The first quarter of a run, in which a model changes most, is not counted.
    known = [(square, traces[step]) for step, square in log.of("square") if step in traces and step > log.num_steps / 4]
    # A step that overflowed measured nothing.
    known = [pair for pair in known if all(map(math.isfinite, pair))]
    return noise_scale(*map(list, zip(*known, strict=True))) if len(known) >= _FEWEST else None


def _examples_to(log: Log, loss: float) -> float:
    found = crossing([(step, step * log.batch, value) for step, value in log.of("eval_loss")], loss, higher=False)
    return math.inf if found is None else found[1]


def _critical(runs: Sequence[OwnRun]) -> tuple[float, str, int | None]:
    if (known := first_with_noise(runs)) is not None:
        smallest, noise = known
        scale = noise.value if math.isfinite(noise.value) else noise.low
        return scale, f"the noise scale of {smallest.name}", nearly_free_batch(noise, smallest.batch_size)
    first, last = runs[0], runs[-1]
    if first.batch_size == last.batch_size or first.examples_to_loss is None or last.examples_to_loss is None:
        raise InputError(
            "neither a gradient noise scale (integrations.trainer.prepare logs it) nor two runs at different batches "
            "with finite held-out losses: there is nothing to advise from"
        )
    few, many = first.examples_to_loss, last.examples_to_loss
    critical = math.inf if many <= few else (few * last.batch_size - many * first.batch_size) / (many - few)
    return max(critical, 1.0), f"the examples of {first.name} and {last.name} to the same loss", None


def first_with_noise(runs: Sequence[OwnRun]) -> tuple[OwnRun, NoiseScale] | None:
    """Returns the run of the smallest batch whose noise scale has a lower end."""
    known = ((run, run.noise) for run in runs if run.noise is not None and 0 < run.noise.low < math.inf)
    return next(known, None)


def _settings(log: Log, critical: float) -> tuple[list[Settings], str]:
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
        multiplier = examples_at(1.0, log.batch, batch, critical)
        found.append(Settings(batch, run.lr, run.warmup_steps, run.num_steps, multiplier))
    return found, ""
