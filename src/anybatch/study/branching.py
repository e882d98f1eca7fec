"""The critical batch, measured by branching: ordinary runs from the checkpoints of one, at several times the batch."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from anybatch.comparison.statistics import line_through
from anybatch.errors import Failed, InputError
from anybatch.files import read_object, write_json
from anybatch.recipes import Recipe
from anybatch.runs import Run
from anybatch.study.measuring import Stage, Trainer, branch, epoch_examples, kept_or_removed, staged

# The steps of the largest branch; the smaller ones see the same examples.
_LARGEST_STEPS = 24
# Branches are compared by their held-out losses at this many places, evenly over the second half of their examples.
_PLACES = 4


@dataclass(frozen=True)
class Plan:
    """The plan of the runs: the steps at which the run is branched, and the cost of all."""

    recipe: Recipe
    batch_size: int
    num_examples: int
    steps: tuple[int, ...]
    factors: tuple[int, ...]
    window: int

    @property
    def cost(self) -> int:
        """Returns the examples that measuring trains on: the run up to its last point, and all branches."""
        return self.steps[-1] * self.batch_size + len(self.steps) * len(self.factors) * self.window

    def told(self) -> str:
        """Returns the cost in words."""
        factors = ", ".join(map(str, self.factors))
        return (
            f"branching at {len(self.steps)} point{'s' * (len(self.steps) > 1)}, "
            f"{factors} times batch {self.batch_size:,}: "
            f"{len(self.steps) * len(self.factors)} short runs, {self.cost:,} examples in all, "
            f"{self.cost / self.num_examples:.0%} of the run's {self.num_examples:,}"
        )


def plan(recipe: Recipe, num_examples: int, points: Sequence[float], factors: Sequence[int]) -> Plan:
    """Plans the branches of a run of `num_examples` at its first batch.

    Args:
        points: shares of the run, above 0 and below 1.
        factors: multiples of the batch; 1 is added, for comparison.

    Raises:
        InputError: naming the value and its bound; or the run is too short for its branches.
    """
    if recipe.ramp or len(recipe.phases) > 1:
        what = "a ramp already" if recipe.ramp else f"{len(recipe.phases)} phases"
        raise InputError(
            f"{recipe.name} has {what}: branches are measured of a run at one batch; name a recipe with one phase and "
            "no ramp"
        )
    if not points or not all(0 < point < 1 for point in points):
        raise InputError(f"--points {','.join(map(str, points))}: shares of the run must be above 0 and below 1")
    if not factors or min(factors) < 1:
        raise InputError(f"--factors {','.join(map(str, factors))}: must be at least 1")
    chosen = tuple(sorted({1, *factors}))
    batch_size = recipe.phases[0].batch_size
    window = _LARGEST_STEPS * chosen[-1] * batch_size
    steps = tuple(sorted({max(1, round(point * num_examples / batch_size)) for point in points}))
    if steps[-1] * batch_size + window > num_examples:
        raise InputError(
            f"{recipe.name}: a branch at {chosen[-1]} times batch {batch_size} sees {window:,} examples, which the run "
            f"of {num_examples:,} does not have after {max(points):.0%}; choose smaller --factors, earlier --points or "
            "a longer run"
        )
    return Plan(recipe, batch_size, num_examples, steps, chosen, window)


def measure(planned: Plan, folder: Path, trainer: Trainer, tolerance: float) -> list[dict[str, Any]]:
    """Trains up to each point, branches there, and compares; does not repeat what is already in `folder`.

    Raises:
        Stopped: a signal asked for it; the same call continues.
        Failed: the run itself was lost before its last point.
    """
    recipe, found = planned.recipe, []
    quiet = {"num_evals": 1, "num_trust_ratios": 1, "noise_every": 0}
    settings = {**quiet, "keep_last": 1, "checkpoint_every_steps": 10**9}
    trunk = staged(recipe, [Stage(planned.steps[-1], planned.batch_size)], planned.num_examples, **settings)
    for number, step in enumerate(planned.steps, 1):
        parent = trainer.to(trunk, folder / "trunk", step, f"{recipe.name} up to point {number}")
        losses: dict[int, list[float]] = {}
        for factor in planned.factors:
            batch_size = planned.batch_size * factor
            num_steps = -(-planned.window // batch_size)
            places = [step + round(num_steps * (0.5 + 0.5 * place / _PLACES)) for place in range(1, _PLACES + 1)]
            stages = [Stage(step, planned.batch_size), Stage(num_steps, batch_size)]
            branched = staged(recipe, stages, planned.num_examples, **settings, evaluate_at=places)
            run = Run(folder / f"step-{step:08d}" / f"x{factor}")
            if not run.recipe_file.exists():
                branch(parent, step, branched, run.path)
            title = f"point {number} of {len(planned.steps)}, {factor} times the batch"
            # A lost branch ends early, and has no loss at its last places.
            with suppress(Failed):
                trainer.to(branched, run.path, step + num_steps, title)
            losses[factor] = _held_out(run, places, step + num_steps)
        excesses = [excess(factor, losses[factor], losses[1]) for factor in planned.factors if factor > 1]
        base_loss = fmean(losses[1])
        found.append(critical_batch(step * planned.batch_size, planned.batch_size, base_loss, excesses, tolerance))
    return found


def advise(
    recipe: Recipe,
    points: Sequence[float],
    factors: Sequence[int],
    tolerance: float,
    command: str,
    folder: Path | None,
    trainer: Trainer,
) -> dict[str, Any]:
    """Prints what measuring costs, measures, and returns the measurements, their fit, and the ramp that follows.

    The values are JSON's, save for infinite ones.

    Args:
        command: the command that starts such a run, without a ramp.
        folder: the folder that keeps the runs; None: a temporary one.
    """
    if not 0 < tolerance < math.inf:
        raise InputError(f"--tolerance {tolerance}: must be above 0")
    planned = plan(recipe, recipe.reference.length(epoch_examples(recipe)), points, factors)
    trainer.progress.say(planned.told())
    with kept_or_removed(folder) as place:
        _keep_to(planned, Path(place))
        found = measure(planned, Path(place), trainer, tolerance)
    fit = power_law(found)
    stages = ramp(found, planned.batch_size, planned.num_examples)
    return {
        "recipe": recipe.name,
        "optimizer": recipe.optimizer.name,
        "batch_size": planned.batch_size,
        "num_examples": planned.num_examples,
        "tolerance": tolerance,
        "cost_examples": planned.cost,
        "critical_batch": found,
        "fit": None if fit is None else {"scale": fit[0], "exponent": fit[1]},
        "ramp": [list(stage) for stage in stages],
        "command": f"{command} --set ramp={','.join(f'{batch}@{share:.6g}' for share, batch in stages)}",
    }


def _held_out(run: Run, places: Sequence[int], end: int) -> list[float]:
    """Returns the held-out losses of a branch at `places`; infinite after its loss was lost.

    Raises:
        InputError: the branch reached its end, and its records lack an evaluation.
    """
    seen = {event["step"]: event["loss"] for event in run.metrics("eval")}
    missing = [place for place in places if place not in seen]
    if missing and (run.checkpoints / f"step-{end:08d}").is_dir():
        raise InputError(f"{run.metrics_file}: damaged: it has no evaluation of step {missing[0]}; remove {run.path}")
    return [float(loss) if isinstance(loss := seen.get(place), int | float) else math.inf for place in places]


def _keep_to(planned: Plan, folder: Path) -> None:
    """Writes into `folder` what is measured; InputError if anything else is there."""
    file = folder / "branching.json"
    said = {"steps": list(planned.steps), "factors": list(planned.factors), "batch_size": planned.batch_size}
    if not file.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"--out {folder}: is not empty and holds no branches; choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, said)
    elif (before := read_object(file)) != said:
        raise InputError(
            f"--out {folder}: was measured with steps {before.get('steps')} and factors {before.get('factors')}, not "
            f"{said['steps']} and {said['factors']}; give the same --points and --factors, or another --out"
        )


def excess(factor: int, branch: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """Returns how far a branch at `factor` times the batch ended above branch 1, after the same examples.

    `mean` is the mean difference of their held-out losses, infinite if one was lost; `error` its standard error.
    """
    differences = [one - other for one, other in zip(branch, base, strict=True)]
    mean = fmean(differences)
    if not math.isfinite(mean):
        return {"factor": factor, "mean": math.inf, "error": 0.0}
    n = len(differences)
    return {"factor": factor, "mean": mean, "error": stdev(differences) / math.sqrt(n) if n > 1 else math.inf}


def critical_batch(
    examples: int, batch_size: int, base_loss: float, excesses: Sequence[Mapping[str, float]], tolerance: float
) -> dict[str, Any]:
    """Computes the largest batch that loses nothing after `examples` of training, from branches at growing factors.

    A branch is within the tolerance if its excess plus two standard errors is. It is beyond the tolerance if its
    excess minus two standard errors is.

    Returns:
        `low`: the largest batch that is shown to be within the tolerance; `batch_size` if none larger is. `high`: the
        smallest that is shown to be beyond it; None if none is. `value`: the batch at which the loss crosses the
        tolerance, on a line over the logarithm of the batch; None if no branch crossed it.

    Source: Merrill et al. 2025, arXiv 2505.23971, section 3 (local recovery from branched training).

    Example:
        >>> means = {2: 0.001, 4: 0.009, 8: 0.032}
        >>> branches = [{"factor": factor, "mean": mean, "error": 0.001} for factor, mean in means.items()]
        >>> found = critical_batch(1000, 16, 3.0, branches, 0.01)
        >>> found["low"], round(found["value"], 1), found["high"]
        (32, 66.0, 128)
    """
    bound = tolerance * min(1.0, abs(base_loss))
    low, high, value = batch_size, None, None
    before_factor, before_mean = 1.0, 0.0
    for each in sorted(excesses, key=lambda one: one["factor"]):
        factor, mean, error = each["factor"], each["mean"], each["error"]
        if high is None and mean + 2 * error <= bound:
            low = round(factor * batch_size)
        if high is None and mean - 2 * error > bound:
            high = round(factor * batch_size)
        if value is None and mean > bound:
            share = (bound - before_mean) / (mean - before_mean) if math.isfinite(mean) else 0.0
            value = batch_size * before_factor * (factor / before_factor) ** min(max(share, 0.0), 1.0)
        before_factor, before_mean = factor, mean
    if value is not None:
        value = min(max(value, float(low)), math.inf if high is None else float(high))
    return {"examples": examples, "low": low, "value": value, "high": high, "excess": list(excesses)}


def power_law(points: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    """Fits (a, p) of the critical batch a * examples^p, by least squares of logarithms; None for under two values."""
    known = [(math.log(one["examples"]), math.log(one["value"])) for one in points if one["value"] and one["examples"]]
    if len({x for x, _ in known}) < 2:
        return None
    intercept, p = line_through(*zip(*known, strict=True))
    return math.exp(intercept), p


def ramp(points: Sequence[Mapping[str, Any]], batch_size: int, num_examples: int) -> list[tuple[float, int]]:
    """Returns (share, batch) of the ramp that follows the measured points.

    From each point on, it takes the largest doubling of `batch_size` that is shown to lose nothing there. The batch
    never shrinks, and does not grow before the first point.

    Example:
        >>> ramp([{"examples": 100, "low": 16}, {"examples": 400, "low": 64}], 16, 1000)
        [(0.4, 16), (0.6, 64)]
    """
    stages: list[tuple[float, int]] = [(0.0, batch_size)]
    for point in sorted(points, key=lambda one: one["examples"]):
        batch = batch_size * 2 ** max(0, math.floor(math.log2(point["low"] / batch_size)))
        if batch > stages[-1][1] and point["examples"] < num_examples:
            stages.append((point["examples"] / num_examples, batch))
    ends = [start for start, _ in stages[1:]] + [1.0]
    return [(end - start, batch) for (start, batch), end in zip(stages, ends, strict=True)]
