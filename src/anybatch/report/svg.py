"""Turns a matplotlib figure into inline SVG: text stays text, colors become CSS variables, ids become unique.

And into a PDF: the colors have names, which mean those of the light page while a PDF is drawn.

matplotlib is imported inside the functions, so that importing the report costs nothing.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from statistics import fmean
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Names that `canvas` defines for matplotlib.
INK, MUTED, GRID, PAPER = "page:ink", "page:muted", "page:grid", "page:paper"
ACCENTS = tuple(f"page:accent-{digit}" for digit in range(6))
MARKERS = ("o", "s", "D", "^", "v", "P")
# Their values until `render` replaces them by CSS variables.
_PLACEHOLDERS = {name: f"#0102{number:02x}" for number, name in enumerate((INK, MUTED, GRID, PAPER, *ACCENTS))}
_VARIABLES = {placeholder: name.removeprefix("page:") for name, placeholder in _PLACEHOLDERS.items()}
_PREFERRED = {"lamb": 0, "adamw": 1, "lars": 2, "layerwise": 3}

WIDE, NARROW = 1040, 360
# The resolution of heat maps in a PDF; everything else is lines and letters.
_PRINTED_DPI = 288


@dataclass(frozen=True)
class Frame:
    """The place of a figure: its width in CSS pixels, a key unique on the page, and its words.

    `pdf`: a file to which the figure is also written as a PDF.
    """

    width: int
    key: str
    title: str
    description: str
    pdf: BinaryIO | None = None

    @property
    def narrow(self) -> bool:
        return self.width == NARROW


_STYLE: Any = {
    "svg.fonttype": "none",
    # Text that an editor, or a search, finds as text.
    "pdf.fonttype": 42,
    "svg.hashsalt": "anybatch",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 12,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.linewidth": 1,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 1,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
}


def accent(optimizer: str, optimizers: Sequence[str]) -> int:
    """Returns the number of an optimizer's color and marker: fixed for the usual ones, otherwise the next free."""
    if optimizer in _PREFERRED:
        return _PREFERRED[optimizer]
    taken = {_PREFERRED[name] for name in optimizers if name in _PREFERRED}
    free = [number for number in range(len(ACCENTS)) if number not in taken]
    others = sorted({name for name in optimizers if name not in _PREFERRED})
    return free[others.index(optimizer) % len(free)]


@contextmanager
def canvas(width: int, height: float) -> Iterator["Figure"]:
    """Yields an empty figure of `width` x `height` CSS pixels in the report's style."""
    import matplotlib
    from matplotlib.colors import get_named_colors_mapping
    from matplotlib.figure import Figure

    for name, placeholder in _PLACEHOLDERS.items():
        get_named_colors_mapping().setdefault(name, placeholder)
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # A name in a script that DejaVu lacks: the browser has a font for it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield Figure(figsize=(width / 72, height / 72), dpi=72)


def panel(figure: "Figure", left: float, top: float, width: float, height: float) -> "Axes":
    """Makes axes whose plotting area is placed in CSS pixels from the upper left corner."""
    total_width, total_height = (size * 72 for size in figure.get_size_inches())
    box = (left / total_width, 1 - (top + height) / total_height, width / total_width, height / total_height)
    return figure.add_axes(box)


def spread(positions: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Moves `positions` as little as needed to be `distance` apart, within [low, high] if there is room."""
    order = sorted(range(len(positions)), key=lambda k: positions[k])
    # Without the distances they must not fall: neighbors that do are pooled at their mean, the least squares' answer.
    pools: list[list[float]] = []
    for k, index in enumerate(order):
        pools.append([positions[index] - k * distance])
        while len(pools) > 1 and fmean(pools[-2]) > fmean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    placed = [fmean(pool) for pool in pools for _ in pool]
    placed = [position + k * distance for k, position in enumerate(placed)]
    shift = max(0.0, low - placed[0]) - max(0.0, placed[-1] - high) if placed else 0.0
    return [placed[order.index(k)] + shift for k in range(len(placed))]


def render(figure: "Figure", frame: Frame) -> str:
    """Returns the figure as an <svg> element for an HTML page."""
    if frame.pdf is not None:
        # The dates and versions would make two PDFs of the same numbers differ.
        unknown = dict.fromkeys(("CreationDate", "Creator", "Producer"))
        figure.savefig(frame.pdf, format="pdf", metadata={"Title": frame.title, **unknown}, dpi=_PRINTED_DPI)
        return ""
    key = frame.key
    target = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(target, format="svg", metadata=nothing, transparent=True)
    source = target.getvalue()
    body = source[source.index(">", source.index("<svg")) + 1 : source.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = _own_ids(body, key).replace("xlink:href", "href")
    body = body.replace("<image ", '<image style="image-rendering: pixelated" ')
    body = re.sub(r"#0102[0-9a-f]{2}", lambda match: f"var(--{_VARIABLES[match[0]]})", body)
    body = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", body)
    body = re.sub(r'transform="rotate\(-0 [^)]*\)"', "", body)
    body = re.sub(r"\n\s*", "\n", body)
    # matplotlib's length unit is 1/72 inch; drawn at 72 to the inch, one unit is one CSS pixel.
    width, height = (round(size * 72) for size in figure.get_size_inches())
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-labelledby="{key}-title {key}-desc"><title id="{key}-title">{escape(frame.title)}</title>'
        f'<desc id="{key}-desc">{escape(frame.description)}</desc>{body}</svg>'
    )


def as_pdf(draw: Callable[[Frame], str], title: str) -> bytes:
    """Returns the figure at the width of a wide page as a PDF, in the colors of the light page on white."""
    from matplotlib.colors import get_named_colors_mapping

    names, light = get_named_colors_mapping(), _light_colors()
    target = io.BytesIO()
    for name in _PLACEHOLDERS:
        # One by one: only then the mapping forgets what it has converted.
        names[name] = light[name.removeprefix("page:")]
    try:
        draw(Frame(WIDE, "pdf", title, "", target))
    finally:
        for name, placeholder in _PLACEHOLDERS.items():
            names[name] = placeholder
    return target.getvalue()


def _light_colors() -> dict[str, str]:
    """Returns the style sheet's colors by variable; the first of each are the light ones."""
    style = files("anybatch.report").joinpath("style.css").read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for name, color in re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", style):
        found.setdefault(name, color)
    return found | {"paper": "#ffffff"}


def _own_ids(body: str, key: str) -> str:
    """Drops the ids that nothing refers to and prefixes the others with the figure's key."""
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda m: f' id="{key}-{m[1]}"' if m[1] in used else "", body)
    return re.sub(r'(url\(#|href="#)([^)"]+)', lambda m: f"{m[1]}{key}-{m[2]}", body)
