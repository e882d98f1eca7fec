"""What the pages for people show: their links, their anchors, and the commands in their blocks."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

_FENCED = re.compile(r"^(```+)(\w*)[^\n]*\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+?)\s*$", re.MULTILINE)
PROGRAMS = ("anybatch", "torchrun", "python", "pip", "make", "sbatch")


def python_blocks(text: str) -> Iterator[tuple[int, str]]:
    """(line before the first, code) of every fenced block of Python."""
    for found in _FENCED.finditer(text):
        if found[2] == "python":
            yield text.count("\n", 0, found.start(3)), found[3]


def links(text: str) -> list[str]:
    """The targets of all links and images outside of code."""
    return _LINK.findall(_INLINE.sub("", _FENCED.sub("", text)))


def anchors(text: str) -> set[str]:
    """What a repository's pages and the site make of the headings."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCED.sub("", text)):
        words = re.sub(r"[^\w\- ]", "", _LINK.sub("", heading).strip().lower()).replace(" ", "-")
        found.add(words)
    return found


def commands(text: str) -> Iterator[list[str]]:
    """The words of every command in an indented or fenced block, and of every whole `anybatch ...` inside a line."""
    blocks = [found[3] for found in _FENCED.finditer(text) if found[2] in ("", "sh", "bash", "console")]
    rest = _FENCED.sub("", text)
    blocks += ["\n".join(line[4:] for line in rest.splitlines() if line.startswith("    "))]
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            line = line.strip().removeprefix("$ ")
            if line.split(" ")[0] in PROGRAMS:
                yield shlex.split(line, comments=True)
    for code in _INLINE.findall(rest):
        words = code.strip("`").split()
        # A last word that is an option names it, and gives no value.
        if words[0] == "anybatch" and "..." not in words and not words[-1].startswith("--"):
            yield ["1" if word.isupper() else word for word in words]  # RECIPE, N
