"""The convergence theorems, measured: exponents, the smoothness that counts, and when layer-wise methods lose."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anybatch.comparison.statistics import line_through, mean_interval
from anybatch.engine import Progress
from anybatch.environment import describe_environment
from anybatch.files import write_json
from anybatch.optim import LAMB, LARS
from anybatch.study.theory.problem import MakeOptimizer, Problem, run

# phi is bounded on both sides, as both theorems require.
PHI = (0.5, 2.0)
# Exponents agree within this share of the theorem's.
TOLERANCE = 0.15


@dataclass(frozen=True)
class Method:
    """An optimizer with its theorem's learning rate and measure; `predicted` is the exponent of T in that measure."""

    name: str
    make: MakeOptimizer
    normalized: bool
    measure: str
    predicted: float = -1.0
    rate_exponent: float = 0.0

    def rate(self, problem: Problem, num_steps: int) -> float:
        """SGD: 1/L_inf (times T^-1/2 where asked). LARS, LAMB: sqrt(2 (f_1 - f*) / (phi_max^2 |L|_1 T))."""
        if self.normalized:
            total = sum(problem.smoothness)
            return math.sqrt(2 * problem.gap / (PHI[1] ** 2 * total * num_steps))
        return math.pow(num_steps, self.rate_exponent) / problem.largest

    def stationarity(self, norms: Mapping[str, Tensor]) -> list[list[float]]:
        """Returns what the theorem bounds, as a squared gradient norm, for each problem and repetition."""
        measured = norms[self.measure]
        found: list[list[float]] = (measured if self.measure == "squared" else measured.square()).tolist()
        return found


_SGD = partial(torch.optim.SGD, lr=1.0)
_LARS = partial(LARS, lr=1.0, momentum=0.0, weight_decay=0.0, phi=PHI)
_LAMB = partial(LAMB, lr=1.0, betas=(0.0, 0.0), eps=0.0, weight_decay=0.0, phi=PHI)
SGD = Method("SGD", _SGD, False, "squared")
SGD_FALLING = Method("SGD, rate ∝ T^-1/2", _SGD, False, "squared", -0.5, -0.5)
LARS_ = Method("LARS", _LARS, True, "layers")
LAMB_ = Method("LAMB", _LAMB, True, "coordinates")
METHODS = (SGD, LARS_, LAMB_)


@dataclass(frozen=True)
class Size:
    """How much is measured: `steps` are the values of T for the exponents; the other experiments have their own T."""

    steps: tuple[int, ...]
    spreads: tuple[int, ...]
    densities: tuple[int, ...]
    fixed_steps: int
    num_layers: int
    num_repetitions: int


FULL = Size((100, 316, 1000, 3162, 10_000, 31_623), (1, 2, 4, 8), (1, 2, 4, 8, 16), 500, 16, 4)
SMALL = Size((50, 200, 800), (1, 4), (1, 8), 200, 8, 2)
MULTIPLES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


def measure_theory(size: Size, seed: int, progress: Progress) -> dict[str, Any]:
    """Runs all three experiments; the result is the same for the same size and seed."""
    methods = [SGD, SGD_FALLING, LARS_, LAMB_]
    task = progress.task("theory", len(methods) * len(size.steps) + 2 * len(METHODS))
    done = itertools.count(1)

    def advance(note: str) -> None:
        task.advance(next(done), note)

    try:
        slopes = [_exponent(method, size, seed, advance) for method in methods]
        smoothness = _smoothness(size, seed, advance)
        crossover = _crossover(size, seed, advance)
    finally:
        task.end()
    return {"seed": seed, "phi": PHI, "exponents": slopes, "smoothness": smoothness, "crossover": crossover}


def run_theory(out: Path, seed: int, progress: Progress, size: Size = FULL) -> dict[str, Any]:
    """Measures the theorems and writes theory.json into `out`: {"kind", "environment", "measured", "findings"}.

    It uses one thread: the tensors are small, and the sums are the same on any machine with the same torch.
    """
    torch.set_num_threads(1)
    measured = measure_theory(size, seed, progress)
    values = {"environment": describe_environment(), "measured": measured, "findings": sentences(measured)}
    found = {"kind": "theory", **values}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "theory.json", found)
    return found


def spiked(spread: float, num_layers: int) -> tuple[float, ...]:
    """Returns a smoothness of mean 1 with L_inf = `spread`: one sharp layer, the others alike."""
    return (float(spread),) + ((num_layers - spread) / (num_layers - 1),) * (num_layers - 1)


def dense_problem(spread: float, num_layers: int, noise: float) -> Problem:
    """Makes f_1 - f* = 1 in equal shares of all layers; with a noise of `noise` in each."""
    share = 1 / num_layers
    return Problem(spiked(spread, num_layers), (noise,) * num_layers, (share,) * num_layers, octaves=2)


def sparse_problem(spread: float, active: int, num_layers: int) -> Problem:
    """Makes f_1 - f* = 1 in `active` layers, evenly apart, the sharpest included; equal gradient norms, noise ∝ L_i.

    The curvatures within a layer span 8 octaves, so that progress is slow in some direction at any time: in this case
    the bounds have effect.
    """
    smoothness = spiked(spread, num_layers)
    # Equal |grad_i| at equal width means energy in proportion to 1 / L_i.
    raw = [1 / value if i % (num_layers // active) == 0 else 0.0 for i, value in enumerate(smoothness)]
    energy = tuple(value / sum(raw) for value in raw)
    return Problem(smoothness, tuple(0.3 * value for value in smoothness), energy, octaves=8)


def _exponent(method: Method, size: Size, seed: int, advance: Callable[[str], None]) -> dict[str, Any]:
    problem = dense_problem(2, 8, noise=1.0)
    values = []
    for num_steps in size.steps:
        rate = method.rate(problem, num_steps)
        norms = run([problem], [rate], method.make, num_steps, size.num_repetitions, seed)
        values.append(method.stationarity(norms)[0])
        advance(f"{method.name}, T = {num_steps}")
    about = {"method": method.name, "measure": method.measure, "predicted": method.predicted, "steps": list(size.steps)}
    return {**about, **_fitted(size.steps, values)}


def _smoothness(size: Size, seed: int, advance: Callable[[str], None]) -> dict[str, Any]:
    """Measures T times the measure while L_inf grows, and L_avg, f_1 - f* and the noise stay."""
    problems = [dense_problem(spread, size.num_layers, noise=0.1) for spread in size.spreads]
    rows = []
    for method in METHODS:
        rates = [method.rate(problem, size.fixed_steps) for problem in problems]
        norms = run(problems, rates, method.make, size.fixed_steps, size.num_repetitions, seed)
        values = [[size.fixed_steps * value for value in each] for each in method.stationarity(norms)]
        predicted = 0.0 if method.normalized else 1.0
        rows.append({"method": method.name, "predicted": predicted, **_fitted(size.spreads, values)})
        advance(f"{method.name}, L_inf / L_avg")
    return {"steps": size.fixed_steps, "spreads": list(size.spreads), "methods": rows}


def _fitted(xs: Sequence[int], values: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Returns the mean at each x, and the exponent of x with its interval over the repetitions."""
    logs = [math.log(x) for x in xs]
    slopes = [line_through(logs, [math.log(value) for value in each])[1] for each in zip(*values, strict=True)]
    return {"values": [asdict(mean_interval(each)) for each in values], "exponent": asdict(mean_interval(slopes))}


def _crossover(size: Size, seed: int, advance: Callable[[str], None]) -> dict[str, Any]:
    """Measures (E|grad f|)^2 of each method at its best of six learning rates, over spread and density."""
    cases = [(spread, active) for spread in size.spreads for active in size.densities]
    problems = [sparse_problem(spread, active, size.num_layers) for spread, active in cases]
    best: dict[str, list[float]] = {}
    at: dict[str, list[float]] = {}
    for method in METHODS:
        rates = [m * method.rate(problem, size.fixed_steps) for problem in problems for m in MULTIPLES]
        several = [problem for problem in problems for _ in MULTIPLES]
        norms = run(several, rates, method.make, size.fixed_steps, 2, seed)
        values = norms["plain"].mean(1).square().view(len(problems), len(MULTIPLES))
        best[method.name] = values.min(1).values.tolist()
        at[method.name] = [MULTIPLES[k] for k in values.argmin(1).tolist()]
        advance(f"{method.name}, crossover")
    densities = [active / size.num_layers for active in size.densities]
    rows = []
    for method in (LARS_, LAMB_):
        ratios = [layerwise / plain for layerwise, plain in zip(best[method.name], best["SGD"], strict=True)]
        table = [ratios[i : i + len(densities)] for i in range(0, len(ratios), len(densities))]
        crossings = [crossing(densities, row) for row in table]
        rows.append({"method": method.name, "ratios": table, "crossings": crossings})
    return {
        "steps": size.fixed_steps,
        "spreads": list(size.spreads),
        "densities": densities,
        "predicted": [1 / spread for spread in size.spreads],
        "multiples": list(MULTIPLES),
        "best_multiples": at,
        "methods": rows,
    }


def crossing(densities: Sequence[float], ratios: Sequence[float]) -> float | None:
    """Returns the density at which `ratios` falls through 1, on a line between logarithms; None if it does not."""
    for left, right, above, below in zip(densities, densities[1:], ratios, ratios[1:], strict=False):
        if above > 1 >= below:
            share = math.log(above) / math.log(above / below)
            return math.exp(math.log(left) + share * math.log(right / left))
    return None


def sentences(found: Mapping[str, Any]) -> list[str]:
    """Returns one finding a line."""
    return [
        *_told_exponents(found["exponents"]),
        *_told_smoothness(found["smoothness"]),
        *_told_crossover(found["crossover"]),
    ]


def _told_exponents(rows: Any) -> list[str]:
    said = []
    for row in rows:
        slope, predicted = row["exponent"], row["predicted"]
        agrees = abs(slope["mean"] - predicted) <= TOLERANCE * abs(predicted)
        said.append(
            f"{row['method']}: the squared gradient norm falls as T^{slope['mean']:.3f} ({slope['low']:.3f} to "
            f"{slope['high']:.3f}); the theorem's bound falls as T^{predicted:g}. "
            + ("They agree within 15 %." if agrees else "They do not agree within 15 %.")
        )
    return said


def _told_smoothness(found: Any) -> list[str]:
    said = []
    for row in found["methods"]:
        slope, predicted = row["exponent"]["mean"], row["predicted"]
        verb = "grows as" if abs(slope) > TOLERANCE else "hardly depends on it:"
        bound = "L∞" if predicted else "L_avg"
        agrees = abs(slope - predicted) <= TOLERANCE
        said.append(
            f"{row['method']}: with L_avg fixed, T times the measure {verb} L∞^{slope:.2f}, where the bound goes "
            f"with {bound} (exponent {predicted:g}). " + ("They agree." if agrees else "They differ by more than 0.15.")
        )
    return said


def _told_crossover(found: Any) -> list[str]:
    said = []
    for row in found["methods"]:
        parts = []
        for spread, predicted, crossing, ratios in zip(
            found["spreads"], found["predicted"], row["crossings"], row["ratios"], strict=True
        ):
            if crossing is not None:
                where = f"a density of {crossing:.2f} (the bounds: {predicted:.2g})"
            elif ratios[-1] > 1:
                where = f"no density, it is {ratios[-1]:.2f} times SGD's even at 1 (the bounds: {predicted:.2g})"
            else:
                where = f"every density tried (the bounds: {predicted:.2g})"
            parts.append(f"at L∞ = {spread:g} L_avg from {where}")
        said.append(f"{row['method']} beats SGD, each at its best rate, {'; '.join(parts)}.")
    at_edge = [
        f"L∞ = {spread:g} L_avg, density {density:.2g}"
        for (spread, density), multiple in zip(
            [(spread, density) for spread in found["spreads"] for density in found["densities"]],
            found["best_multiples"]["SGD"],
            strict=True,
        )
        if multiple == found["multiples"][-1]
    ]
    if at_edge:
        said.append(
            f"SGD's best rate is the highest tried, {found['multiples'][-1]:g}/L∞, at {'; '.join(at_edge)}: far beyond "
            "its theorem's 1/L∞, which these functions, whose gradients are bounded, let pass."
        )
    first = found["methods"][0]
    said.append(
        f"Where the gradient is sparsest and the curvature dense (density {found['densities'][0]:.2g}, L∞ = L_avg), "
        f"layer-wise normalisation loses: {first['method']}'s measure is {first['ratios'][0][0]:.1f} times SGD's."
    )
    return said
