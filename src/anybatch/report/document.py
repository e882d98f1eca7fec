"""The parts of pages: sections of text, figures at two widths, and tables; and each as a file."""

import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from anybatch.comparison.wording import UNKNOWN, text
from anybatch.files import write_bytes
from anybatch.report.svg import NARROW, WIDE, Frame, as_pdf


@dataclass(frozen=True)
class Figure:
    """A drawing with its caption; `description` is for readers who do not see it."""

    key: str
    title: str
    caption: str
    draw: Callable[[Frame], str]
    description: str = ""

    def html(self) -> str:
        """Returns the figure at both widths; the style sheet shows one."""
        wide, narrow = (
            self.draw(Frame(width, f"{self.key}-{width}", self.title, self.description or self.caption))
            for width in (WIDE, NARROW)
        )
        return (
            f'<figure><div class="wide">{wide}</div><div class="narrow">{narrow}</div>'
            f"<figcaption>{escape(self.caption)}</figcaption></figure>"
        )


@dataclass(frozen=True)
class Column:
    """A column of a table: its value for a row's item, and the form for a reader."""

    name: str
    value: Callable[[Any], object]
    shown: Callable[[Any], str] = lambda value: plain(value)


@dataclass(frozen=True)
class Table:
    """A row for each item; the page omits a column without known values.

    Args:
        key: the name of its file of comma-separated values; empty for none.
        note: a sentence before it; `folded`: the title under which it is hidden until a reader opens it.
        accent: the number of the color that marks a row; `odd`: why a row is unlike the others, "" if it is not.
    """

    key: str
    label: str
    columns: Sequence[Column]
    items: Sequence[Any]
    note: str = ""
    folded: str = ""
    accent: Callable[[Any], int | None] = lambda item: None
    odd: Callable[[Any], str] = lambda item: ""

    def html(self) -> str:
        shown = [column for column in self.columns if any(column.value(item) not in (None, "") for item in self.items)]
        head = "".join(f'<th scope="col">{escape(column.name)}</th>' for column in shown)
        body = ""
        for item in self.items:
            accent, odd = self.accent(item), self.odd(item)
            dot = "" if accent is None else f'<span class="dot accent-{accent}"></span>'
            name, *cells = (escape(column.shown(column.value(item))) for column in shown)
            unlike = f' class="odd" title="{escape(odd)}"' if odd else ""
            row = f'<th scope="row" title="{name}">{dot}{name}</th>' + "".join(f"<td>{cell}</td>" for cell in cells)
            body += f"<tr{unlike}>{row}</tr>"
        table = (
            f'<div class="scroll" role="region" aria-label="{escape(self.label)}" tabindex="0"><table>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )
        table = fold(self.folded, table) if self.folded else table
        return (f"<p>{escape(self.note)}</p>" if self.note else "") + table

    def csv(self) -> str:
        """Returns the same as comma-separated values; None is an empty field."""
        target = io.StringIO()
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow([column.name for column in self.columns])
        for item in self.items:
            values = [column.value(item) for column in self.columns]
            writer.writerow(["" if value is None else value for value in values])
        return target.getvalue()


@dataclass(frozen=True)
class Section:
    """A part of a page with an anchor; its blocks are HTML, figures and tables."""

    name: str
    heading: str
    blocks: Sequence[str | Figure | Table]

    def html(self) -> str:
        body = "".join(block if isinstance(block, str) else block.html() for block in self.blocks)
        return f'<section id="{self.name}"><h2>{escape(self.heading)}</h2>{body}</section>'


def plain(value: object) -> str:
    """Returns a value of a table in a form for readers."""
    if value is None or value == "":
        return UNKNOWN
    if isinstance(value, float):
        if math.isinf(value):
            return "unbounded"
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def fold(summary: str, body: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def points(sentences: Sequence[str], aside: str = "") -> str:
    """Returns findings, one a line."""
    lines = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<div class="findings"><ul>{lines}</ul>{aside}</div>'


def page(kicker: str, title: str, answer: str, sections: Sequence[Section | None]) -> str:
    """Returns one HTML page that loads nothing else: a line of context, the question, the answer, and the sections."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(text(title))}</title>\n<style>\n{_style()}</style>\n</head>\n<body>\n<main>\n"
        f'<header><p class="kicker">{escape(kicker)}</p><h1>{escape(title)}</h1>'
        f'<p class="answer">{escape(answer)}</p></header>\n'
        + "\n".join(section.html() for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


def write_folder(out: Path, html: str, sections: Sequence[Section | None]) -> list[Path]:
    """Writes index.html, each figure of the sections as KEY.svg and KEY.pdf, and each table that has a key as KEY.csv.

    Returns:
        The written files, the page first.
    """
    blocks = [block for section in sections if section for block in section.blocks]
    contents = {"index.html": html.encode("utf-8")}
    for block in blocks:
        if isinstance(block, Figure):
            frame = Frame(WIDE, block.key, block.title, block.description or block.caption)
            contents[f"{block.key}.svg"] = standalone(block.draw(frame)).encode("utf-8")
            contents[f"{block.key}.pdf"] = as_pdf(block.draw, block.title)
        elif isinstance(block, Table) and block.key:
            contents[f"{block.key}.csv"] = block.csv().encode("utf-8")
    out.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_bytes(out / name, content)
    return [out / name for name in contents]


def standalone(svg: str) -> str:
    """Returns an inline <svg> as a file: with its name space and colors, light or dark by the reader's setting."""
    colors = "".join(
        re.findall(r":root \{.*?\n\}|@media \(prefers-color-scheme: dark\) \{.*?\n\}", _style(), re.DOTALL)
    )
    start = svg.index(">") + 1
    head = svg[:start].replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    paper = '<rect width="100%" height="100%" style="fill: var(--paper)"/>'
    return f"{head}<style>{colors}</style>{paper}{svg[start:]}\n"


def _style() -> str:
    return files("anybatch.report").joinpath("style.css").read_text(encoding="utf-8")
