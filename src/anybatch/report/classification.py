"""The mistakes of an image model: its confusion matrix, and the images with the largest errors."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
_PICTURE = re.compile(r"[A-Za-z0-9+/]{1,400000}={0,2}")


@dataclass(frozen=True)
class Mistakes:
    """The mistakes of one run: class names, (true, predicted) -> images, and the worst images as in the file."""

    classes: list[str]
    confusion: Mapping[tuple[int, int], int]
    worst: Sequence[Mapping[str, Any]]


def mistakes(comparison: Comparison) -> Section | None:
    """Shows the finished image runs of the smallest and of the largest batch of each optimizer."""
    parts = []
    for one in comparison.series:
        finished = [(cell, run) for cell in one.cells for run in cell.runs if run.task == "images" and run.finished]
        for cell, run in [*finished[:1], *finished[1:][-1:]]:
            found = read_mistakes(run)
            if found is not None:
                name = named(one, cell)
                parts.append(f"<h3>{escape(name)}</h3>{_matrix(found)}{_worst(found)}")
    return Section("mistakes", "Which images are taken for what", parts) if parts else None


def read_mistakes(run: Row) -> Mistakes | None:
    """Reads the run's classification.json; None if it has none, or an invalid one."""
    if run.path is None:
        return None
    file = run.path / "classification.json"
    if not file.is_file():
        return None
    values = read_object(file)
    names, table, worst = (values.get(key) for key in ("classes", "confusion", "worst"))
    if not isinstance(names, list) or not isinstance(table, list) or not isinstance(worst, list):
        return None
    places = range(len(names))
    confusion = {}
    for row in table:
        if isinstance(row, list) and len(row) == 3 and all(isinstance(n, int) for n in row):
            true, predicted, number = row
            if true in places and predicted in places:
                confusion[true, predicted] = number
    shown = [
        item
        for item in worst
        if isinstance(item, dict) and all(isinstance(item.get(key), int) and item[key] in places for key in _ENDS)
    ]
    return Mistakes([text(name) for name in names], confusion, shown)


def _matrix(found: Mistakes) -> str:
    wrong = {pair: number for pair, number in found.confusion.items() if pair[0] != pair[1]}
    total, missed = sum(found.confusion.values()), sum(wrong.values())
    summary = f"{count(missed)} of {plural(total, 'image')} wrong."
    if len(found.classes) > _LARGEST_MATRIX:
        pairs = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))[:_MOST_PAIRS]
        rows = "".join(
            f"<li>{escape(found.classes[true])} taken for {escape(found.classes[said])}: {count(number)}</li>"
            for (true, said), number in pairs
        )
        classes = count(len(found.classes))
        return f"<p>{summary} The most frequent mistakes, of {classes} classes:</p><ul>{rows}</ul>"
    most = max(wrong.values(), default=1)
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in found.classes)
    rows = ""
    for true, name in enumerate(found.classes):
        cells = "".join(
            _cell(found.confusion.get((true, said), 0), true == said, most) for said in range(len(found.classes))
        )
        rows += f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'
    return (
        f"<p>{summary} Rows are the true classes, columns what the model says.</p>"
        '<div class="scroll" role="region" aria-label="Confusion matrix" tabindex="0"><table class="confusion">'
        f'<thead><tr><th scope="col">true</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _cell(number: int, right: bool, most: int) -> str:
    if not number:
        return "<td></td>"
    if right:
        return f'<td class="right">{count(number)}</td>'
    share = round(15 + 60 * number / most)
    return f'<td style="background: color-mix(in srgb, var(--accent-1) {share}%, transparent)">{count(number)}</td>'


def _worst(found: Mistakes) -> str:
    pictures = []
    for item in found.worst:
        if item["label"] == item["predicted"]:
            continue
        picture = item.get("png")
        if not isinstance(picture, str) or not _PICTURE.fullmatch(picture):
            continue
        true, said = (found.classes[item[key]] for key in _ENDS)
        label = f"{true}, given {percent(finite(item.get('probability')))}; the model says {said}"
        source, name = f"data:image/png;base64,{picture}", text(item.get("name"))
        pictures.append(
            f'<figure><img src="{source}" alt="{escape(label)}" title="{escape(name)}">'
            f"<figcaption>{escape(label)}</figcaption></figure>"
        )
    if not pictures:
        return ""
    return f'<p>The images that it was most wrong about:</p><div class="pictures">{"".join(pictures)}</div>'
