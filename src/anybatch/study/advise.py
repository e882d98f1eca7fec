"""What `anybatch advise` does: a short watched run of a recipe, turned into advice about batches."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from anybatch.engine import Progress
from anybatch.errors import InputError
from anybatch.recipes import Recipe
from anybatch.recipes.phases import StreamedExamples
from anybatch.recipes.preview import aligned
from anybatch.scaling import GradientNoiseScale, NoiseScale, noise_scale
from anybatch.study.advice import Candidate, Growth, candidates, nearly_free_batch
from anybatch.study.noise_run import built, train_watched
from anybatch.study.rate_range import RateRange, rate_range

FEWEST_STEPS = 16
_RANGE_STEPS = 40
# Below this margin the rule's rate is one bad seed away from divergence.
_CLOSE = 2.0
# Adam-like optimizers, whose updates are preconditioned by v.
_PRECONDITIONED = ("lamb", "adamw", "adam")
_NOISIEST_LAYERS = 5


@dataclass(frozen=True)
class Advice:
    """Everything that was measured and made of it."""

    recipe: str
    optimizer: str
    reference_batch: int
    num_steps: int
    noise: NoiseScale
    preconditioned: NoiseScale | None
    layers: Mapping[str, NoiseScale]
    growth: Growth
    candidates: Sequence[Candidate]
    nearly_free: int
    rates: RateRange


def advise(recipe: Recipe, num_steps: int, progress: Progress, settings: Sequence[str] = ()) -> Advice:
    """Trains `recipe` at its reference batch for `num_steps`, measures, and tests the rate at the nearly free batch.

    The first quarter of the steps, in which a fresh model changes most, is not measured.

    Args:
        settings: FIELD=VALUE that the recipe was changed by, which the commands to paste repeat.

    Raises:
        InputError: too few steps, data or recipe are wrong, or the run diverged.
    """
    if num_steps < FEWEST_STEPS:
        raise InputError(f"--steps {num_steps}: must be at least {FEWEST_STEPS}")
    batch_size, largest = recipe.reference.batch_size, _largest_micro_batch(recipe)
    if recipe.phases[0].batch_size != batch_size:
        recipe = recipe.model_copy(
            update={"phases": (recipe.phases[0].model_copy(update={"batch_size": batch_size}), *recipe.phases[1:])}
        )
    with built(recipe) as job:
        phase = job.phases[0]
        num_steps = min(num_steps, phase.num_steps)
        if num_steps < FEWEST_STEPS:
            raise InputError(f"{recipe.name} has {num_steps} steps at its reference batch: {FEWEST_STEPS} are needed")
        noise = GradientNoiseScale(job.model, job.optimizer, window=num_steps - num_steps // 4)
        task = progress.task(f"{recipe.name}: measuring at batch {batch_size}", num_steps * batch_size)
        taken = 0
        try:
            for step in train_watched(job, num_steps, batch_size, largest, noise):
                taken += 1
                task.advance(taken * batch_size, f"loss {step.loss:.3f}")
        finally:
            task.end()
        if taken < num_steps:
            raise InputError(f"{recipe.name}: the loss was lost at step {taken}, at the reference's own rate")
        noise.remove()
        plain = noise.estimate()
        preconditioned = noise.estimate(preconditioned=True) if recipe.optimizer.name in _PRECONDITIONED else None
        examples = phase.examples
        # Recipes stream their data in epochs; any other sequence has no epoch to bound a batch.
        epoch = examples.stream.num_examples if isinstance(examples, StreamedExamples) else 10**12
        found = candidates(recipe, plain, epoch, settings)
        free = nearly_free_batch(plain, batch_size)
        tested = next((c for c in found if c.batch_size == free), None)
        lr = tested.lr if tested is not None else phase.lr
        progress.say(f"{recipe.name}: range test of the rate at batch {free}")
        rates = rate_range(job, lr, min(free, epoch), largest, num_steps * batch_size, _RANGE_STEPS)
        return Advice(
            recipe=recipe.name,
            optimizer=recipe.optimizer.name,
            reference_batch=batch_size,
            num_steps=num_steps,
            noise=plain,
            preconditioned=preconditioned,
            layers=noise.layers(),
            growth=_growth(noise),
            candidates=found,
            nearly_free=free,
            rates=rates,
        )


def to_json(advice: Advice) -> str:
    """JSON text; null for what has no bound."""
    return json.dumps(
        bounded(
            {
                "recipe": advice.recipe,
                "optimizer": advice.optimizer,
                "reference_batch_size": advice.reference_batch,
                "num_steps": advice.num_steps,
                "critical_batch": advice.noise.value if math.isfinite(advice.noise.value) else advice.noise.low,
                "nearly_free_batch": advice.nearly_free,
                "noise_scale": asdict(advice.noise),
                "preconditioned_noise_scale": None if advice.preconditioned is None else asdict(advice.preconditioned),
                "layers": {name: asdict(layer) for name, layer in advice.layers.items()},
                "growth": {
                    "early": asdict(advice.growth.early),
                    "late": asdict(advice.growth.late),
                    "grows": advice.growth.grows,
                    "phases": _phases(advice) if advice.growth.grows else None,
                },
                "candidates": [asdict(candidate) for candidate in advice.candidates],
                "rate_range": {**asdict(advice.rates), "margin": advice.rates.margin},
            }
        ),
        indent=1,
    )


def to_text(advice: Advice) -> str:
    """The advice in words and a table."""
    noise, rates = advice.noise, advice.rates
    lines = [
        f"{advice.recipe} ({advice.optimizer}), {advice.num_steps} steps at batch {advice.reference_batch}",
        "",
        f"gradient noise scale  {_interval(noise)}",
    ]
    if advice.preconditioned is not None:
        lines.append(f"preconditioned        {_interval(advice.preconditioned)}")
        lines.append("The plain one is used below; the preconditioned one, usually larger, is what to hope for.")
    noisiest = sorted(advice.layers.items(), key=lambda item: -item[1].noise_trace)[:_NOISIEST_LAYERS]
    lines += ["", "most of the noise:", *(f"  {name}: {_interval(layer)}" for name, layer in noisiest), ""]
    lines.append(f"nearly free up to batch {advice.nearly_free}: at most a quarter more examples than at the smallest")
    lines.append(
        f"examples double at batch {_number(noise.value)} (from {_number(noise.low)} to {_number(noise.high)})"
    )
    lines += ["", *_table(advice), ""]
    if rates.margin < _CLOSE:
        lines.append(
            f"WARNING: at batch {advice.nearly_free} the loss is lost at a rate of {rates.lost_at:.3g}, "
            f"{rates.margin:.1f} times the rule's {rates.tested:.3g}: choose a lower reference.lr"
        )
    elif rates.lost_at is None:
        lines.append(
            f"rate at batch {advice.nearly_free}: {rates.tested:.3g}; nothing was lost up to {rates.highest:.3g}"
        )
    else:
        lines.append(
            f"rate at batch {advice.nearly_free}: {rates.tested:.3g}; the loss is lost at {rates.lost_at:.3g}, "
            f"{rates.margin:.1f} times that"
        )
    if advice.growth.grows:
        early, late = advice.growth.batches(advice.reference_batch)
        lines.append(
            f"the noise grew from {_number(advice.growth.early.value)} to {_number(advice.growth.late.value)}: "
            f"start at batch {early}, and go on at {late}"
        )
    best = max((c.batch_size for c in advice.candidates if c.nearly_free), default=None)
    lines += ["", "to paste, the largest nearly free batch marked by *:"]
    lines += [f"{'*' if c.batch_size == best else ' '} {c.command}" for c in advice.candidates]
    return "\n".join(lines)


def _phases(advice: Advice) -> list[dict[str, Any]]:
    early, late = advice.growth.batches(advice.reference_batch)
    share = advice.num_steps / 2
    return [{"batch_size": early, "first_steps": round(share)}, {"batch_size": late}]


def _growth(noise: GradientNoiseScale) -> Growth:
    squares, traces = noise.history()
    half = len(squares) // 2
    return Growth(noise_scale(squares[:half], traces[:half]), noise_scale(squares[half:], traces[half:]))


def _table(advice: Advice) -> list[str]:
    rows = [["batch", "rate", "warm-up", "steps", "examples", "over the reference's", "steps", ""]]
    for c in advice.candidates:
        rows.append(
            [
                f"{c.batch_size:,}",
                f"{c.lr:.3g}",
                f"{c.warmup_steps:,}",
                f"{c.num_steps:,}",
                f"{c.num_examples:,}",
                f"{c.multiplier:.2f} ({c.multiplier_low:.2f} to {c.multiplier_high:.2f})",
                f"{c.speed_up:.1f}x fewer" if c.speed_up >= 1 else f"{1 / c.speed_up:.1f}x more",
                "nearly free" if c.nearly_free else "",
            ]
        )
    return [line.rstrip() for line in aligned(rows)]


def _interval(noise: NoiseScale) -> str:
    return f"{_number(noise.value)} ({_number(noise.low)} to {_number(noise.high)}, 95 %)"


def _number(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "unbounded"


def _largest_micro_batch(recipe: Recipe) -> int:
    size: Any = recipe.engine.micro_batch_size
    return size if isinstance(size, int) else 32


def bounded(value: Any) -> Any:
    """`value` with None for NaN and infinity, which JSON cannot hold."""
    if isinstance(value, dict):
        return {key: bounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [bounded(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
