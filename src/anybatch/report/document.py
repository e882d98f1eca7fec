"""The parts that every page is made of: the HTML around sections, figures at two widths, tables, and their files."""

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from anybatch.files import write_bytes
from anybatch.report.load import text
from anybatch.report.svg import NARROW, WIDE, Frame, as_pdf

Rows = tuple[Sequence[str], Sequence[Sequence[object]]]
"""The columns of a table, and its rows."""


def document(title: str, sections: Sequence[str]) -> str:
    """One HTML page that loads nothing else."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(text(title))}</title>\n<style>\n{_style()}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


def header(kicker: str, title: str, answer: str) -> str:
    """What stands on top: a line of context, the question, and the answer in a sentence."""
    return (
        f'<header><p class="kicker">{escape(kicker)}</p><h1>{escape(title)}</h1>'
        f'<p class="answer">{escape(answer)}</p></header>'
    )


def section(name: str, heading: str, body: str) -> str:
    """A part of the page with an anchor."""
    return f'<section id="{name}"><h2>{heading}</h2>{body}</section>'


def points(sentences: Sequence[str]) -> str:
    """Findings, one a line."""
    lines = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<div class="findings"><ul>{lines}</ul></div>'


def figure(key: str, title: str, description: str, caption: str, draw: Callable[[Frame], str]) -> str:
    """The figure at both widths, of which the style sheet shows one."""
    wide, narrow = (draw(Frame(width, f"{key}-{width}", title, description)) for width in (WIDE, NARROW))
    return (
        f'<figure><div class="wide">{wide}</div><div class="narrow">{narrow}</div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def table(label: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that scrolls by itself where it is wider than the page."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "".join(
        f'<tr><th scope="row" title="{escape(first)}">{escape(first)}</th>'
        f"{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="scroll" role="region" aria-label="{escape(label)}" tabindex="0"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def write_folder(
    out: Path, page: str, figures: Mapping[str, tuple[str, str, Callable[[Frame], str]]], tables: Mapping[str, Rows]
) -> list[Path]:
    """Writes index.html, each figure (title, description, drawing) as NAME.svg and NAME.pdf, each table as NAME.csv.

    Returns:
        What was written, the page first.
    """
    texts = {"index.html": page}
    for name, (title, description, draw) in figures.items():
        texts[f"{name}.svg"] = standalone(draw(Frame(WIDE, name, title, description)))
    texts |= {f"{name}.csv": csv_text(columns, rows) for name, (columns, rows) in tables.items()}
    contents = {name: text.encode("utf-8") for name, text in texts.items()}
    contents |= {f"{name}.pdf": as_pdf(draw, title) for name, (title, _, draw) in figures.items()}
    out.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_bytes(out / name, content)
    return [out / name for name in contents]


def csv_text(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """The same as comma-separated values; None is an empty field."""
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([["" if value is None else value for value in row] for row in rows])
    return target.getvalue()


def standalone(svg: str) -> str:
    """An inline <svg> as a file of its own: with its name space and colours, light or dark as the reader has it."""
    colours = "".join(
        re.findall(r":root \{.*?\n\}|@media \(prefers-color-scheme: dark\) \{.*?\n\}", _style(), re.DOTALL)
    )
    start = svg.index(">") + 1
    head = svg[:start].replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    paper = '<rect width="100%" height="100%" style="fill: var(--paper)"/>'
    return f"{head}<style>{colours}</style>{paper}{svg[start:]}\n"


def _style() -> str:
    return files("anybatch.report").joinpath("style.css").read_text(encoding="utf-8")
