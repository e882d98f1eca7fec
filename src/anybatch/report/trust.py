"""The trust ratios of every layer over time as heat maps, and readable names for the layers."""

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from anybatch.comparison.cell import Cell
from anybatch.comparison.grid import Comparison, Series
from anybatch.comparison.rows import Ratios, Row
from anybatch.comparison.wording import listed, rate, short
from anybatch.report.document import Figure, Section, fold
from anybatch.report.layout import linear, logarithmic, named, write
from anybatch.report.svg import GRID, INK, MUTED, Frame, canvas, panel, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import LogNorm

_MAX_SAMPLES = 160
_HEADER = 22
_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?|layer_?\d*)\.(\d+)\.(.+)$")
_WORDS = (
    (r"\.?(weight|kernel)(?=$|\[)", ""),
    (r"attention\.self\.", ""),
    (r"attention\.output\.dense", "attention out"),
    (r"attention\.output\.LayerNorm", "attention norm"),
    (r"intermediate\.dense", "feed-forward in"),
    (r"^output\.dense", "feed-forward out"),
    (r"^output\.LayerNorm", "feed-forward norm"),
    (r"^.*\bword_embeddings|^.*\bwte", "words"),
    (r"^.*\bposition_embeddings|^.*\bwpe", "positions"),
    (r"^.*\btoken_type_embeddings", "segments"),
    (r"^.*embeddings\.LayerNorm", "norm"),
    (r"^.*predictions\.transform\.dense", "words, transform"),
    (r"^.*predictions\.transform\.LayerNorm", "words, norm"),
    (r"^.*predictions\.decoder", "words, decoder"),
    (r"^.*predictions\.bias", "words, bias"),
    (r"^.*seq_relationship", "next sentence"),
    (r"^.*pooler\.dense", "pooler"),
    (r"^.*qa_outputs", "answer span"),
    (r"\.bias", " bias"),
)


Map = tuple[Series, Cell, Row]


def trust(comparison: Comparison) -> Section | None:
    """Three maps a contender: its reference, the largest batch that held, the largest; the others are folded."""
    found = [[(one, cell, run) for cell in one.cells for run in cell.runs if run.ratios] for one in comparison.series]
    found = [items for items in found if items]
    if not found:
        return None
    limits = _scale([run.ratios for items in found for *_, run in items])
    blocks: list[str | Figure] = []
    rest: list[Map] = []
    for number, items in enumerate(found):
        done = [item for item in items if item[2].finished] or items
        main = next((item for item in done if item[1] is item[0].main), done[len(done) // 2])
        largest = next(item for item in items if item[1] is items[-1][1])
        shown = list({id(run): (one, cell, run) for one, cell, run in (done[0], main, largest)}.values())
        shown.sort(key=lambda item: item[1].batch)
        figure = _maps(f"trust-{number}", shown, limits)
        blocks.append(figure)
        rest += [item for item in items if all(item[2] is not run for *_, run in shown)]
    for number in range(0, len(rest), 3):
        figure = _maps(f"trust-more-{number // 3}", rest[number : number + 3], limits)
        blocks.append(fold(figure.title.partition(": ")[2], figure.html()))
    return Section("trust", "Trust ratios, layer by layer", blocks)


def _maps(key: str, items: Sequence[Map], limits: tuple[float, float]) -> Figure:
    names = [named(one, cell) + (f", seed {run.seed}" if len(cell.runs) > 1 else "") for one, cell, run in items]
    caption = (
        "Each layer's step is its learning rate times this ratio, the norm of its weights over the norm of its update: "
        "bright layers take long steps, dark ones short. In every map the colors span "
        f"{rate(limits[0])} to {rate(limits[1])}. Layers that are not adapted (ratio 1 throughout) are left out."
    )
    runs = [run.ratios for *_, run in items]
    title = f"Trust ratios of every layer over time: {listed(names)}"
    return Figure(key, title, caption, lambda frame: _heat_maps(runs, names, limits, frame))


def layer_name(name: str) -> tuple[str, str]:
    """Returns a parameter's group and short name: '...layer.0.attention.self.query.weight' -> ('layer 0', 'query')."""
    inside = _LAYER.search(name)
    rest = inside[2] if inside else name
    for pattern, word in _WORDS:
        rest = re.sub(pattern, word, rest)
    rest = rest.strip(". ") or name
    rest = rest if len(rest) <= 18 else "…" + rest[-17:]
    return (f"layer {inside[1]}" if inside else "embeddings" if "embed" in name.lower() else "heads"), rest


def _scale(runs: Sequence[Sequence[Ratios]]) -> tuple[float, float]:
    """Returns the range of colors that all maps share: every ratio except the outermost two in a hundred."""
    values = sorted(v for samples in runs for _, ratios in samples for v in ratios.values() if v is not None and v > 0)
    if not values:
        return 0.1, 10.0
    cut = len(values) // 100
    low, high = values[cut], values[-1 - cut]
    return (low, high) if high > low * 1.5 else (low / 1.5, high * 1.5)


def _heat_maps(
    runs: Sequence[Sequence[Ratios]], labels: Sequence[str], limits: tuple[float, float], frame: Frame
) -> str:
    """Draws the maps of up to three runs with common rows, side by side or, on a narrow page, one above the other."""
    from matplotlib.colors import LogNorm

    rows = _rows(runs)
    tall = max(3.0, min(14.0, 840 / len(rows)))
    # The lower edge of every row in pixels from the top, after the first edge, and each header's place.
    edges, headers = [0.0], dict[str, float]()
    for _, (group, _) in rows:
        top = edges[-1]
        if group not in headers:
            headers[group] = top
            top += _HEADER
        edges.append(top + tall)
    narrow, width = frame.narrow, frame.width
    left, gutter, above, below = 118 if narrow else 132, 20, 30, 48
    columns = 1 if narrow else max(len(runs), 2)
    size = (width - left - 12 - gutter * (columns - 1)) / columns
    height = (above + edges[-1] + below) * (len(runs) if narrow else 1)
    norm = LogNorm(*limits)
    with canvas(width, height + 62) as figure:
        for number, (run, text) in enumerate(zip(runs, labels, strict=True)):
            column, line = (0, number) if narrow else (number, 0)
            place = left + column * (size + gutter), line * (above + edges[-1] + below) + above
            axes = panel(figure, *place, size, edges[-1])
            _mesh(axes, run, [name for name, _ in rows], edges, norm)
            axes.set_title(text, loc="left", size=14, weight="bold", color=INK, pad=2)
            axes.set_xlabel("step", labelpad=4)
            if column == 0:
                aside: Any = {"xycoords": ("axes fraction", "data"), "ha": "right", "annotation_clip": False}
                for group, position in headers.items():
                    at = 0, position + _HEADER - 4
                    write(axes, group, at, (-6, 0), weight="bold", size=12, va="bottom", color=INK, **aside)
                for (_, (_, name)), edge in zip(rows if tall >= 10 else (), edges[1:], strict=False):
                    write(axes, name, (0, edge - tall / 2), (-6, 0), color=MUTED, size=11, va="center", **aside)
        _bar(panel(figure, left, height + 20, min(420, width - left - 30), 12), norm)
        return render(figure, frame)


def _rows(runs: Sequence[Sequence[Ratios]]) -> list[tuple[str, tuple[str, str]]]:
    """Returns every layer once, with group and short name: embeddings, then layers by number, then the heads."""
    names = {name: layer_name(name) for samples in runs for _, ratios in samples for name in ratios}

    def order(item: tuple[str, tuple[str, str]]) -> tuple[int, int]:
        group = item[1][0]
        return (1, int(group[6:])) if group.startswith("layer ") else (0 if group == "embeddings" else 2, 0)

    return sorted(names.items(), key=order)


def _mesh(axes: "Axes", run: Sequence[Ratios], names: Sequence[str], edges: Sequence[float], norm: "LogNorm") -> None:
    import numpy as np

    samples = list(dict(run).items())
    stride = math.ceil(len(samples) / _MAX_SAMPLES)
    samples = samples[::-1][::stride][::-1]
    steps = [0.0, *(float(step) for step, _ in samples)]
    values = np.full((2 * len(names), len(samples)), np.nan)
    # An empty row before each makes room for a header.
    values[1::2] = [[(ratio if (ratio := ratios.get(name)) and ratio > 0 else np.nan) for _, ratios in samples]
                    for name in names]  # fmt: skip
    heights = edges[1] - _HEADER
    lines = [place for edge in edges[1:] for place in (edge - heights, edge)]
    mesh = axes.pcolormesh(
        steps, [0.0, *lines], np.ma.masked_invalid(values), norm=norm, cmap="viridis", rasterized=True, linewidth=0
    )
    mesh.set_antialiased(False)
    axes.set_ylim(edges[-1], 0)
    axes.set_xlim(0, max(steps[-1], 1))
    axes.grid(False)
    axes.set_yticks([])
    linear(axes.xaxis, 4, short)


def _bar(axes: "Axes", norm: "LogNorm") -> None:
    import numpy as np

    low, high = float(norm.vmin or 0.1), float(norm.vmax or 10.0)
    edges = np.geomspace(low, high, 129)
    axes.pcolormesh(edges, [0, 1], np.sqrt(edges[1:] * edges[:-1])[None], norm=norm, cmap="viridis", rasterized=True)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_yticks([])
    axes.grid(False)
    logarithmic(axes.xaxis, (1.0,) if high / low > 100 else (1.0, 2.0, 5.0), 12)
    axes.spines["bottom"].set_color(GRID)
    axes.set_title("trust ratio, logarithmic", loc="left", size=12, color=MUTED, pad=4)
