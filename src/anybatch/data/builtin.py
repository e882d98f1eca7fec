"""English text that comes with every Python: the language reference, and the docstrings of the standard library."""

import ast
import os
import re
import sysconfig
import warnings
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "pydoc_data", "encodings"}
_FEWEST_WORDS = 30
_BODIES = ("body", "handlers", "orelse", "finalbody")


def python_documents() -> Iterator[str]:
    """Yields each topic of the language reference, then each module's docstrings, cleaned of markup and code.

    Documents are sorted by name, so one installation always gives the same documents; other versions of Python give
    others. A text of fewer than thirty words and a module that cannot be read are skipped.
    """
    from pydoc_data.topics import topics

    paths = sorted(_sources(Path(sysconfig.get_path("stdlib"))))
    texts = chain((topics[name] for name in sorted(topics)), ("\n\n".join(_docstrings(path)) for path in paths))
    for text in texts:
        # A docstring can hold half of a surrogate pair, which is no character and cannot be written.
        cleaned = clean(text.encode(errors="ignore").decode())
        if len(cleaned.split()) >= _FEWEST_WORDS:
            yield cleaned


def _sources(root: Path) -> Iterator[Path]:
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _LEFT_OUT]
        yield from (Path(folder, name) for name in names if name.endswith(".py"))


def _docstrings(path: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            # Ignores a doubtful escape in somebody's source, and reads the source.
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    # Only statements can hold a definition: skipping expressions saves most of the walk.
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
        inner = [child for field in _BODIES for child in getattr(node, field, ()) if not isinstance(child, ast.Expr)]
        waiting.extend(reversed(inner))


_BLOCK_END = re.compile(r"\n[ \t]*\n")
_SESSION = re.compile(r"^\s*(?:>>>|\.\.\.(?:\s|$))")
_RULE_OR_TABLE = re.compile(r"^\s*(?:[\W_]+|[|+].*[|+])$")
_BULLET = re.compile(r"^\s*(?:[-*+•o]|\d+[.)]|[a-z][.)]|\(\w{1,2}\))\s+(?=\S)")
_DIRECTIVE = re.compile(r"^\s*\.\. ")
_REPLACED = (
    (re.compile(r":[a-z]+(?::[a-z]+)*:`[~!]?([^`<]*?)(?:\s*<[^`>]*>)?`"), r"\1"),
    (re.compile(r"\s*\[(?:\d+|#\w*)\]_?(?!\w)"), ""),
    (re.compile(r"`+_?|\*+|(?<!\w)\||\|(?!\w)|(?<!\S)--?-?>"), ""),
    (re.compile(r"::$"), ":"),
    (re.compile(r"\s+([.,;:)])"), r"\1"),
    (re.compile(r"\s+"), " "),
)
_WORD = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*")
_CODE = re.compile(r"[={}<>\\|@#$^~_\[\]]|\w\(.|\w\.\w|::|^\W+$")
# Words that English needs and code seldom has.
_SMALL_WORDS = """
a an and are as at be been being but by can do does each from has have if in into is it its may must no not of on only
or other same should so such than that the their then there these they this to was were when where which will with
would you your
"""
_GLUE = frozenset(_SMALL_WORDS.split())


def clean(text: str) -> str:
    """Returns the prose of `text` without interpreter sessions, code, tables, rules and marks; keeps paragraphs."""
    paragraphs = []
    for block in _BLOCK_END.split(text.expandtabs()):
        for lines in _items(block):
            paragraph = " ".join(lines)
            for pattern, replacement in _REPLACED:
                paragraph = pattern.sub(replacement, paragraph)
            if _is_prose(paragraph := paragraph.strip()):
                paragraphs.append(paragraph)
    return "\n\n".join(paragraphs)


def _items(block: str) -> Iterator[list[str]]:
    """Yields the lines of a block, each list item separately; an interpreter session ends the block."""
    lines: list[str] = []
    for line in block.split("\n"):
        if _SESSION.match(line):
            break
        if _RULE_OR_TABLE.match(line) or _DIRECTIVE.match(line) or "::=" in line:
            continue
        if bullet := _BULLET.match(line):
            yield lines
            lines, line = [], line[bullet.end() :]
        lines.append(line.strip())
    yield lines


def _is_prose(paragraph: str) -> bool:
    """Returns whether most pieces are words, some are small English words, and few look like code."""
    pieces = paragraph.split()
    words = _WORD.findall(paragraph)
    glue = sum(word.lower() in _GLUE for word in words)
    code = sum(_CODE.search(piece) is not None for piece in pieces)
    return len(words) >= 4 and glue >= 0.15 * len(words) and code <= 0.25 * len(pieces)
