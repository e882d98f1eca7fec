"""The page of `anybatch study theory`: the theorems beside what was measured; figures also as files of their own."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anybatch.report.document import document, figure, header, points, section, table, write_folder
from anybatch.report.layout import Grid, write_title
from anybatch.report.svg import ACCENTS, INK, MARKERS, MUTED, Frame, accent, canvas, panel, render
from anybatch.report.svg import spread as spread_apart
from anybatch.report.wording import rate, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TITLE = "Do the convergence theorems hold where their assumptions do?"
_ORDER = ("lamb", "lars", "sgd", "sgd, rate ∝ t^-1/2")


def write_theory(found: Mapping[str, Any], sentences: Sequence[str], out: Path) -> list[Path]:
    """Writes index.html, an SVG and a PDF of each figure and a CSV of each table into `out`; returns their paths."""
    drawn: dict[str, Callable[[Frame], str]] = {
        "exponents": lambda frame: _exponents(found["exponents"], frame),
        "smoothness": lambda frame: _smoothness(found["smoothness"], frame),
        "crossover": lambda frame: _crossover(found["crossover"], frame),
    }
    tables = {"exponents": _exponent_rows(found), "crossover": _crossover_rows(found)}
    figures = {name: (*_WORDS[name], draw) for name, draw in drawn.items()}
    return write_folder(out, _page(found, sentences, drawn, tables), figures, tables)


_WORDS = {
    "exponents": (
        "Squared gradient norm against the number of steps",
        "Each method in the measure of its own theorem, batch b = T, mean over iterates and repetitions. Dashed: the "
        "theorem's exponent, through the first point.",
    ),
    "smoothness": (
        "What the sharpest layer costs",
        "T times the measure as the smoothness of one layer grows while the mean over layers, f_1 - f* and the noise "
        "stay. SGD's bound goes with the largest L, those of LARS and LAMB with the mean.",
    ),
    "crossover": (
        "Where layer-wise methods win and lose",
        "The squared mean gradient norm of LARS and LAMB over SGD's, each at the best of the same number of rates; "
        "below 1 the layer-wise method is better. Density 1: all layers' gradients alike; 1/h: one layer has all. "
        "Ticks on the line at 1: where the bounds cross.",
    ),
}


def _page(
    found: Mapping[str, Any],
    sentences: Sequence[str],
    drawn: Mapping[str, Callable[[Frame], str]],
    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[object]]]],
) -> str:
    wide = found["smoothness"]["spreads"][-1]
    rows = {row["method"]: row for row in found["smoothness"]["methods"]}
    answer = (
        "Yes: with batch b = T, SGD, LARS and LAMB all lose squared gradient norm like 1/T. What differs is the "
        f"smoothness that counts: with one layer {wide:g} times sharper than the mean, SGD needs "
        f"{_growth(rows['SGD']):.1f} times as long, LARS {_growth(rows['LARS']):.1f} and LAMB "
        f"{_growth(rows['LAMB']):.1f} times. Where few layers have a gradient and all are curved, SGD wins."
    )
    agreed = all(
        abs(row["exponent"]["mean"] - row["predicted"]) <= 0.15 * -row["predicted"] for row in found["exponents"]
    )
    parts = [header("anybatch study theory", _TITLE, answer if agreed else " ".join(sentences[:4]))]
    for name, draw in drawn.items():
        title, caption = _WORDS[name]
        body = figure(name, title, caption, caption, draw)
        if name in tables:
            columns, values = tables[name]
            body += "<p></p>" + table(title, columns, [[_shown(value) for value in row] for row in values])
        parts.append(section(name, title, body))
    parts.append(section("findings", "Finding by finding", points(sentences)))
    return document(_TITLE, parts)


def _growth(row: Mapping[str, Any]) -> float:
    values = [value["mean"] for value in row["values"]]
    return float(values[-1] / values[0])


def _shown(value: object) -> str:
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3f}" if abs(value) >= 0.1 else f"{value:.3g}"


def _exponent_rows(found: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
    steps = found["exponents"][0]["steps"]
    columns = ["method", "theorem", "measured", "low", "high", *(f"T = {number}" for number in steps)]
    return columns, [
        [row["method"], row["predicted"], *(row["exponent"][key] for key in ("mean", "low", "high")),
         *(value["mean"] for value in row["values"])]
        for row in found["exponents"]
    ]  # fmt: skip


def _crossover_rows(found: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
    crossover = found["crossover"]
    densities = [f"density {density:.3g}" for density in crossover["densities"]]
    rows = [
        [f"{row['method']} / SGD, L∞ = {spread} L_avg", *ratios, crossing, predicted]
        for row in crossover["methods"]
        for spread, ratios, crossing, predicted in zip(
            crossover["spreads"], row["ratios"], row["crossings"], crossover["predicted"], strict=True
        )
    ]
    return ["ratio of the measures", *densities, "crosses 1 at", "bounds cross at"], rows


def _number(name: str) -> int:
    return accent(name.lower(), _ORDER)


def _logarithmic(axes: "Axes", x: str, ticks: Sequence[float] | None = None, subs: tuple[float, ...] = (1.0,)) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(x, labelpad=4)
    formatter = FuncFormatter(lambda number, _: short(number) if number >= 1 else rate(number))
    for axis, fixed in ((axes.xaxis, ticks), (axes.yaxis, None)):
        axis.set_major_locator(LogLocator(subs=subs, numticks=8) if fixed is None else FixedLocator(list(fixed)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(formatter)


def _exponents(rows: Sequence[Mapping[str, Any]], frame: Frame) -> str:
    columns = 1 if frame.narrow else 2
    grid = Grid(frame.width, columns, -(-len(rows) // columns), 200, left=64, right=28, bottom=52)
    lows = [value["mean"] for row in rows for value in row["values"]]
    with canvas(frame.width, grid.height) as drawing:
        for place, row in enumerate(rows):
            axes = panel(drawing, *grid.box(place))
            number = _number(row["method"])
            values = [value["mean"] for value in row["values"]]
            first = row["steps"][0]
            predicted = [values[0] * (steps / first) ** row["predicted"] for steps in row["steps"]]
            axes.plot(row["steps"], predicted, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.5)
            axes.plot(row["steps"], values, color=ACCENTS[number], marker=MARKERS[number], markersize=7)
            _logarithmic(axes, "steps T (and batch b = T)")
            axes.set_ylim(min(lows) / 2, max(lows) * 2)
            slope = row["exponent"]["mean"]
            axes.text(
                0.03, 0.06, f"measured exponent {slope:.3f}, theorem {row['predicted']:g}", transform=axes.transAxes,
                color=INK,
            )  # fmt: skip
            write_title(axes, row["method"], ACCENTS[number])
        return render(drawing, frame)


def _smoothness(found: Mapping[str, Any], frame: Frame) -> str:
    grid = Grid(frame.width, 1, 1, 260, left=64, right=90, bottom=52)
    with canvas(frame.width, grid.height) as drawing:
        axes = panel(drawing, *grid.box(0))
        for row in found["methods"]:
            number = _number(row["method"])
            values = [value["mean"] for value in row["values"]]
            axes.plot(found["spreads"], values, color=ACCENTS[number], marker=MARKERS[number], markersize=7)
            # LARS and LAMB end close together: one name above its line, the other below.
            shift = {"LARS": 9, "LAMB": -9}.get(row["method"], 0)
            axes.annotate(
                row["method"], (found["spreads"][-1], values[-1]), (8, shift), textcoords="offset points",
                color=ACCENTS[number], weight="bold", va="center", annotation_clip=False,
            )  # fmt: skip
        _logarithmic(axes, "L∞ / L_avg", found["spreads"], subs=(1.0, 2.0, 5.0))
        write_title(axes, "T × squared gradient norm", INK)
        return render(drawing, frame)


def _crossover(found: Mapping[str, Any], frame: Frame) -> str:
    columns = 1 if frame.narrow else 2
    grid = Grid(frame.width, columns, 2 // columns, 300, left=48, right=96, bottom=52)
    everything = [ratio for row in found["methods"] for ratios in row["ratios"] for ratio in ratios]
    with canvas(frame.width, grid.height) as drawing:
        for place, row in enumerate(found["methods"]):
            axes = panel(drawing, *grid.box(place))
            number = _number(row["method"])
            axes.axhline(1, color=INK, linewidth=1)
            for order, ratios in enumerate(row["ratios"]):
                share = (order + 1) / len(found["spreads"])
                colour = ACCENTS[number]
                axes.plot(
                    found["densities"], ratios, color=colour, alpha=0.3 + 0.7 * share, marker=MARKERS[number],
                    linewidth=1 + 1.5 * share,
                )  # fmt: skip
                axes.plot(found["predicted"][order], 1, marker="|", markersize=14, markeredgewidth=2, color=INK)
            _logarithmic(axes, "density of the gradient over layers", found["densities"])
            axes.set_yticks([0.5, 1, 2])
            axes.set_ylim(min(everything) / 1.15, max(everything) * 1.2)
            ends = [ratios[-1] for ratios in row["ratios"]]
            heights = [float(axes.transData.transform((1, end))[1]) for end in ends]
            for spread, end, height, free in zip(
                found["spreads"], ends, heights, spread_apart(heights, 14, 0, 1e6), strict=True
            ):
                axes.annotate(
                    f"L∞ = {spread:g} L_avg", (found["densities"][-1], end), (8, free - height), color=INK, size=11,
                    textcoords="offset points", va="center", annotation_clip=False,
                )  # fmt: skip
            write_title(axes, f"{row['method']} / SGD", ACCENTS[number])
        return render(drawing, frame)
