"""The mistakes of an image model: its confusion matrix, and the images with the largest errors."""

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from anybatch.comparison.grid import Comparison
from anybatch.comparison.rows import Row
from anybatch.comparison.wording import count, percent, plural, text
from anybatch.files import read_object
from anybatch.numbers import finite
from anybatch.report.document import Section
from anybatch.report.layout import named

_ENDS = ("label", "predicted")
_LARGEST_MATRIX = 20
_MOST_PAIRS = 20
Confusion = Mapping[tuple[int, int], int]
_PICTURE = re.compile(r"[A-Za-z0-9+/]{1,400000}={0,2}")


def mistakes(comparison: Comparison) -> Section | None:
    """Shows the finished image runs of the smallest and of the largest batch of each optimizer."""
    parts = []
    for one in comparison.series:
        finished = [(cell, run) for cell in one.cells for run in cell.runs if run.task == "images" and run.finished]
        for cell, run in [*finished[:1], *finished[1:][-1:]]:
            if found := _read(run):
                parts.append(f"<h3>{escape(named(one, cell))}</h3>{_matrix(*found[:2])}{_worst(found[0], found[2])}")
    return Section("mistakes", "Which images are taken for what", parts) if parts else None


def _read(run: Row) -> tuple[list[str], Confusion, Sequence[Mapping[str, Any]]] | None:
    """Reads class names, confusions and the worst images from the run's classification.json; None if it is invalid."""
    file = None if run.path is None else run.path / "classification.json"
    if file is None or not file.is_file():
        return None
    values = read_object(file)
    names, table, worst = (values.get(key) for key in ("classes", "confusion", "worst"))
    if not isinstance(names, list) or not isinstance(table, list) or not isinstance(worst, list):
        return None
    places = range(len(names))
    triples = [row for row in table if isinstance(row, list) and len(row) == 3 and all(isinstance(n, int) for n in row)]
    confusion = {(true, said): number for true, said, number in triples if true in places and said in places}
    shown = [
        item
        for item in worst
        if isinstance(item, dict) and all(isinstance(item.get(key), int) and item[key] in places for key in _ENDS)
    ]
    return [text(name) for name in names], confusion, shown


def _matrix(classes: Sequence[str], confusion: Confusion) -> str:
    wrong = {pair: number for pair, number in confusion.items() if pair[0] != pair[1]}
    summary = f"{count(sum(wrong.values()))} of {plural(sum(confusion.values()), 'image')} wrong."
    if len(classes) > _LARGEST_MATRIX:
        pairs = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))[:_MOST_PAIRS]
        rows = "".join(
            f"<li>{escape(classes[true])} taken for {escape(classes[said])}: {count(number)}</li>"
            for (true, said), number in pairs
        )
        return f"<p>{summary} The most frequent mistakes, of {count(len(classes))} classes:</p><ul>{rows}</ul>"
    most = max(wrong.values(), default=1)

    def cell(true: int, said: int) -> str:
        number = confusion.get((true, said), 0)
        if not number:
            return "<td></td>"
        if true == said:
            return f'<td class="right">{count(number)}</td>'
        share = round(15 + 60 * number / most)
        return f'<td style="background: color-mix(in srgb, var(--accent-1) {share}%, transparent)">{count(number)}</td>'

    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in classes)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(cell(true, said) for said in range(len(classes)))}</tr>'
        for true, name in enumerate(classes)
    )
    return (
        f"<p>{summary} Rows are the true classes, columns what the model says.</p>"
        '<div class="scroll" role="region" aria-label="Confusion matrix" tabindex="0"><table class="confusion">'
        f'<thead><tr><th scope="col">true</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _worst(classes: Sequence[str], worst: Sequence[Mapping[str, Any]]) -> str:
    pictures = ""
    for item in worst:
        picture = item.get("png")
        if item["label"] == item["predicted"] or not isinstance(picture, str) or not _PICTURE.fullmatch(picture):
            continue
        true, said = (classes[item[key]] for key in _ENDS)
        name = escape(text(item.get("name")))
        label = escape(f"{true}, given {percent(finite(item.get('probability')))}; the model says {said}")
        pictures += (
            f'<figure><img src="data:image/png;base64,{picture}" alt="{label}" title="{name}">'
            f"<figcaption>{label}</figcaption></figure>"
        )
    shown = f'<p>The images that it was most wrong about:</p><div class="pictures">{pictures}</div>'
    return shown if pictures else ""
