"""The findings of the theory study, in sentences with figures: theorem and measurement agree or disagree."""

from collections.abc import Mapping
from typing import Any

TOLERANCE = 0.15


def sentences(found: Mapping[str, Any]) -> list[str]:
    """Returns one finding a line."""
    return [*_exponents(found["exponents"]), *_smoothness(found["smoothness"]), *_crossover(found["crossover"])]


def _exponents(rows: Any) -> list[str]:
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


def _smoothness(found: Any) -> list[str]:
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


def _crossover(found: Any) -> list[str]:
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
