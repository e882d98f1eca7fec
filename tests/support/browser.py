"""A page as Chromium lays it out, in a window of any width, light or dark."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

needs_chromium = pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")

# A script of the test's own reports what the layout came to.
_PROBE = """<script>const frame = document.querySelector('iframe'); frame.onload = () => {
const page = frame.contentDocument, root = page.documentElement;
const seen = [...page.querySelectorAll('svg')].filter(svg => svg.getClientRects().length);
const style = element => frame.contentWindow.getComputedStyle(element);
const color = (element, what) => style(element)[what].match(/[0-9]+/g).slice(0, 3).join();
document.title = [root.scrollWidth, root.clientWidth, seen.length, color(page.body, 'backgroundColor'),
color(page.querySelector('h1'), 'color'), color(page.querySelector('svg text'), 'fill')].join(' '); };</script>"""


@dataclass(frozen=True)
class Look:
    """`scrolls`: wider than its window; `figures` that are seen; brightness, 0 to 255, of the paper, headings, and text
    in figures."""

    console: list[str]
    scrolls: bool
    figures: int
    paper: float
    heading: float
    figure_text: float


def look(page: str, folder: Path, width: int, dark: bool = False) -> Look:
    """What a window of `width` pixels shows of an HTML page."""
    html = page.replace("&", "&amp;").replace('"', "&quot;")
    frame = f'<iframe style="width:{width}px;height:900px;border:0" srcdoc="{html}"></iframe>'
    file = folder / "framed.html"
    file.write_text(f"<!doctype html><title>-</title>{frame}{_PROBE}", encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    options += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={folder / 'p'}"]
    options += ["--enable-logging=stderr", "--hide-scrollbars", "--virtual-time-budget=3000", "--dump-dom"]
    options += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"--window-size={width + 100},1000"]
    answer = subprocess.run(["chromium", *options, file.as_uri()], capture_output=True, text=True, timeout=120)
    found = re.search(r"<title>(\d+) (\d+) (\d+) ([\d,]+) ([\d,]+) ([\d,]+)</title>", answer.stdout)
    assert found is not None, answer.stderr[-500:]
    paper, heading, text = (sum(map(int, found[k].split(","))) / 3 for k in (4, 5, 6))
    console = [line for line in answer.stderr.splitlines() if "CONSOLE" in line]
    return Look(console, int(found[1]) > int(found[2]), int(found[3]), paper, heading, text)
