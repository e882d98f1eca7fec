"""The page of `anybatch study theory`: the theorems beside the measurements; figures also as separate files."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anybatch.comparison.wording import rate, short
from anybatch.report.document import Column, Figure, Section, Table, page, points, write_folder
from anybatch.report.layout import logarithmic, name_ends, paneled, write, write_title
from anybatch.report.svg import ACCENTS, INK, MARKERS, MUTED, accent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TITLE = "Do the convergence theorems hold where their assumptions do?"
_ORDER = ("lamb", "lars", "sgd", "sgd, rate ∝ t^-1/2")
Found = Mapping[str, Any]


def write_theory(found: Found, sentences: Sequence[str], out: Path) -> list[Path]:
    """Writes index.html, an SVG and a PDF of each figure and a CSV of each table into `out`; returns their paths."""
    sections = [
        _exponents(found["exponents"]),
        _smoothness(found["smoothness"]),
        _crossover(found["crossover"]),
        Section("findings", "Finding by finding", [points(sentences)]),
    ]
    return write_folder(out, page("anybatch study theory", _TITLE, _answer(found, sentences), sections), sections)


def _answer(found: Found, sentences: Sequence[str]) -> str:
    if any(abs(row["exponent"]["mean"] - row["predicted"]) > 0.15 * -row["predicted"] for row in found["exponents"]):
        return " ".join(sentences[:4])
    wide = found["smoothness"]["spreads"][-1]
    means = {row["method"]: [value["mean"] for value in row["values"]] for row in found["smoothness"]["methods"]}
    growth = {method: values[-1] / values[0] for method, values in means.items()}
    return (
        "Yes: with batch b = T, SGD, LARS and LAMB all lose squared gradient norm like 1/T. What differs is the "
        f"smoothness that counts: with one layer {wide:g} times sharper than the mean, SGD needs "
        f"{growth['SGD']:.1f} times as long, LARS {growth['LARS']:.1f} and LAMB {growth['LAMB']:.1f} times. If few "
        "layers have a gradient and all are curved, SGD wins."
    )


def _section(figure: Figure, names: Sequence[str] = (), rows: Sequence[Sequence[object]] = ()) -> Section:
    """Returns a section of a figure, with a table of its numbers."""
    columns = [Column(name, itemgetter(k), _value) for k, name in enumerate(names)]
    table = Table(figure.key, figure.title, columns, rows)
    return Section(figure.key, figure.title, [figure, "<p></p>", table] if rows else [figure])


def _value(value: object) -> str:
    if not isinstance(value, float):
        return "–" if value is None else str(value)
    return f"{value:.3f}" if abs(value) >= 0.1 else f"{value:.3g}"


def _number(method: str) -> int:
    return accent(method.lower(), _ORDER)


def _log_axes(axes: "Axes", x: str, ticks: Sequence[float] | None = None, subs: Sequence[float] = (1.0,)) -> None:
    from matplotlib.ticker import FixedLocator

    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(x, labelpad=4)
    for axis in (axes.xaxis, axes.yaxis):
        logarithmic(axis, subs, 8, lambda number: short(number) if number >= 1 else rate(number))
    if ticks is not None:
        axes.xaxis.set_major_locator(FixedLocator(list(ticks)))


def _exponents(rows: Sequence[Found]) -> Section:
    lows = [value["mean"] for row in rows for value in row["values"]]

    def draw(axes: "Axes", row: Found) -> None:
        number = _number(row["method"])
        values = [value["mean"] for value in row["values"]]
        predicted = [values[0] * (steps / row["steps"][0]) ** row["predicted"] for steps in row["steps"]]
        axes.plot(row["steps"], predicted, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.5)
        axes.plot(row["steps"], values, color=ACCENTS[number], marker=MARKERS[number], markersize=7)
        _log_axes(axes, "steps T (and batch b = T)")
        axes.set_ylim(min(lows) / 2, max(lows) * 2)
        words = f"measured exponent {row['exponent']['mean']:.3f}, theorem {row['predicted']:g}"
        axes.text(0.03, 0.06, words, transform=axes.transAxes, color=INK)
        write_title(axes, row["method"], ACCENTS[number])

    title = "Squared gradient norm against the number of steps"
    caption = (
        "Each method in the measure of its own theorem, batch b = T, mean over iterates and repetitions. Dashed: the "
        "theorem's exponent, through the first point."
    )
    names = ["method", "theorem", "measured", "low", "high", *(f"T = {steps}" for steps in rows[0]["steps"])]
    items = [
        [row["method"], row["predicted"], *(row["exponent"][end] for end in ("mean", "low", "high")),
         *(value["mean"] for value in row["values"])]
        for row in rows
    ]  # fmt: skip
    return _section(paneled("exponents", title, caption, rows, draw, 200, most=2, left=64, right=28), names, items)


def _smoothness(found: Found) -> Section:
    def draw(axes: "Axes", rows: Sequence[Found]) -> None:
        for row in rows:
            name, color = row["method"], ACCENTS[_number(row["method"])]
            values = [value["mean"] for value in row["values"]]
            axes.plot(found["spreads"], values, color=color, marker=MARKERS[_number(name)], markersize=7)
            # LARS and LAMB end close together: one name above its line, the other below.
            shift, place = {"LARS": 9, "LAMB": -9}.get(name, 0), (found["spreads"][-1], values[-1])
            write(axes, name, place, (8, shift), color=color, weight="bold", va="center", annotation_clip=False)
        _log_axes(axes, "L∞ / L_avg", found["spreads"], subs=(1.0, 2.0, 5.0))
        write_title(axes, "T × squared gradient norm", INK)

    caption = (
        "T times the measure as the smoothness of one layer grows while the mean over layers, f_1 - f* and the noise "
        "stay. SGD's bound goes with the largest L, those of LARS and LAMB with the mean."
    )
    title = "What the sharpest layer costs"
    return _section(paneled("smoothness", title, caption, [found["methods"]], draw, 260, left=64, right=90))


def _crossover(found: Found) -> Section:
    everything = [ratio for row in found["methods"] for ratios in row["ratios"] for ratio in ratios]
    spreads, densities = found["spreads"], found["densities"]

    def draw(axes: "Axes", row: Found) -> None:
        number = _number(row["method"])
        axes.axhline(1, color=INK, linewidth=1)
        for order, ratios in enumerate(row["ratios"]):
            share = (order + 1) / len(spreads)
            style: Any = {"alpha": 0.3 + 0.7 * share, "linewidth": 1 + 1.5 * share}
            axes.plot(densities, ratios, color=ACCENTS[number], marker=MARKERS[number], **style)
            axes.plot(found["predicted"][order], 1, marker="|", markersize=14, markeredgewidth=2, color=INK)
        _log_axes(axes, "density of the gradient over layers", densities)
        axes.set_yticks([0.5, 1, 2])
        axes.set_ylim(min(everything) / 1.15, max(everything) * 1.2)
        last = zip(spreads, row["ratios"], strict=True)
        name_ends(axes, [(densities[-1], ratios[-1], f"L∞ = {each:g} L_avg", INK) for each, ratios in last])
        write_title(axes, f"{row['method']} / SGD", ACCENTS[number])

    title = "Where layer-wise methods win and lose"
    caption = (
        "The squared mean gradient norm of LARS and LAMB over SGD's, each at the best of the same number of rates; "
        "below 1 the layer-wise method is better. Density 1: all layers' gradients alike; 1/h: one layer has all. "
        "Ticks on the line at 1: where the bounds cross."
    )
    rows = [
        [f"{row['method']} / SGD, L∞ = {each} L_avg", *ratios, crossing, predicted]
        for row in found["methods"]
        for each, ratios, crossing, predicted in zip(spreads, row["ratios"], row["crossings"], found["predicted"],
                                                     strict=True)
    ]  # fmt: skip
    densities_named = [f"density {density:.3g}" for density in densities]
    names = ["ratio of the measures", *densities_named, "crosses 1 at", "bounds cross at"]
    figure = paneled("crossover", title, caption, found["methods"], draw, 300, most=2, left=48, right=96)
    return _section(figure, names, rows)
