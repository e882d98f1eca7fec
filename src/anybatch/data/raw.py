"""Turns the names that a user gives (files, folders, globs, lists, data sets of the Hub) into portions of raw text."""

import glob
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from anybatch.data.packed import DAMAGE, PACKINGS, open_packed, pyarrow
from anybatch.data.sentences import in_batches
from anybatch.errors import InputError, one_line, readable
from anybatch.files import read_text

FORMATS = (".txt", ".jsonl", ".parquet")
HUB = "hf:"

# About the bytes in one portion: much for one message between processes, little for the memory.
PORTION_BYTES = 1 << 21
# A longer document of plain text is cut, so that a file without an end in it needs little memory.
LARGEST_DOCUMENT_BYTES = 1 << 22
# A line of JSON cannot be cut.
LARGEST_LINE_BYTES = 1 << 26
_ROWS_AT_ONCE = 256

# Lines of plain text end in CR, LF or both; lines of JSON in LF, as JSON Lines defines.
_LINE_END = rb"(?:\r\n|\n|\r(?!\n))"
_DOCUMENT_END = re.compile(_LINE_END + rb"[ \t\f\v]*" + _LINE_END + rb"[ \t\f\v]*" + _LINE_END)


@dataclass(frozen=True)
class Place:
    """The place to continue reading: the source, the byte (row, in .parquet and on the Hub), and the line's number."""

    source: int = 0
    offset: int = 0
    line: int = 1


@dataclass(frozen=True)
class Portion:
    """Some whole documents of one source: bytes of .txt or .jsonl, or texts; `line` numbers its first line or row.

    `end` is where the next portion begins.
    """

    kind: Literal["txt", "jsonl", "texts"]
    content: bytes | list[Any]
    name: str
    line: int
    end: Place

    @property
    def num_bytes(self) -> int:
        """Returns about the bytes of its text."""
        if isinstance(self.content, bytes):
            return len(self.content)
        return sum(len(text) for text in self.content if isinstance(text, str))


def find_sources(names: Iterable[str | Path]) -> list[str]:
    """Returns the files to read, in order, each once.

    A name is a file, a folder (all text files in and below it, sorted), a glob, `@LIST` (a file with one name a line),
    or `hf:NAME[,CONFIG][@SPLIT]`, a data set of the Hugging Face Hub.

    Raises:
        InputError: nothing is named, or a name leads to no file that can be read.
    """
    found: dict[str, str] = {}
    for name in names:
        for source in _expand(str(name), ()):
            # A file has many names: links, and paths through folders.
            found.setdefault(source if source.startswith(HUB) else str(Path(source).resolve()), source)
    if not found:
        raise InputError("no text files are given; name at least one .txt, .jsonl or .parquet file, or a folder")
    return list(found.values())


def _expand(name: str, lists: tuple[Path, ...]) -> list[str]:
    """Returns the files of a name; `lists` are the lists that led to it, each in the one before."""
    if not name:
        raise InputError("an empty name is given; name a file or a folder, or . for this one")
    path = Path(name)
    if name.startswith(HUB):
        return [name]
    if name.startswith("@") and not path.exists():
        listing = Path(name[1:])
        if not listing.is_file():
            raise InputError(f"{listing}: no such file; @LIST names a file with one name a line")
        if listing.resolve() in lists:
            raise InputError(f"{listing}: lists itself")
        lines, inside = read_text(listing).splitlines(), (*lists, listing.resolve())
        return [file for line in lines if line.strip() for file in _expand(line.strip(), inside)]
    if path.is_dir():
        files = sorted(str(file) for file in path.rglob("*") if file.is_file() and suffixes(file)[0] in FORMATS)
        if not files:
            raise InputError(f"{path}: holds no {', '.join(FORMATS)} file (these may end in {', '.join(PACKINGS)})")
        return files
    if path.is_file():
        if (kind := suffixes(path)[0]) not in FORMATS:
            raise InputError(
                f"{path}: unknown kind of file {kind!r}; must end in .txt or .jsonl, or these with "
                f"{', '.join(PACKINGS)}, or in .parquet"
            )
        return [name]
    if glob.has_magic(name):
        files = sorted(found for found in glob.glob(name, recursive=True) if Path(found).is_file())
        if not files:
            raise InputError(f"{name}: no file matches")
        return [file for match in files for file in _expand(match, lists)]
    if path.exists():
        raise InputError(f"{path}: is no regular file, and text is read more than once; write it to a file first")
    raise InputError(f"{path}: no such file")


def suffixes(path: Path) -> tuple[str, str]:
    """Returns the suffixes of the format and of the packing, in lower case; "" if there is none."""
    packing = path.suffix.lower() if path.suffix.lower() in PACKINGS else ""
    return (path.with_suffix("") if packing else path).suffix.lower(), packing


def read_portions(sources: list[str], start: Place | None = None) -> Iterator[Portion]:
    """Yields the portions of all sources in order, from the place `start`, which is the end of an earlier portion.

    Raises:
        InputError: damaged compression, a file that may not be read, a line of JSON above 64 MB.
    """
    start = start or Place()
    for number in range(start.source, len(sources)):
        begin = start if number == start.source else Place(number)
        name = sources[number]
        if name.startswith(HUB):
            yield from _rows(name, _hub_rows(name, begin.offset), begin)
        elif suffixes(Path(name))[0] == ".parquet":
            yield from _rows(name, _parquet_rows(Path(name), begin.offset), begin)
        else:
            yield from _blocks(Path(name), begin)


def _blocks(path: Path, begin: Place) -> Iterator[Portion]:
    format, packing = suffixes(path)
    kind: Literal["txt", "jsonl"] = "jsonl" if format == ".jsonl" else "txt"
    held, offset, line = b"", begin.offset, begin.line
    reached = line
    try:
        with open_packed(path, packing, offset) as stream:
            while True:
                block = stream.read(PORTION_BYTES)
                held += block
                cut = _cut(kind, held, path, line) if block else len(held)
                reached = line + line_ends(kind, held)
                if cut:
                    portion, held = held[:cut], held[cut:]
                    after = Place(begin.source, offset + cut, line + line_ends(kind, portion))
                    yield Portion(kind, portion, str(path), line, after)
                    offset, line = after.offset, after.line
                if not block:
                    return
    except PermissionError:
        raise InputError(f"{path}: may not be read; change its permissions") from None
    except (*DAMAGE, OSError) as error:
        # Damage has no number: pyarrow raises a plain OSError if compressed bytes make no sense.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        what = f"damaged {path.suffix} file: {one_line(error)}"
        raise InputError(f"{path}:{reached}: {what}; copy or pack it again") from None


def line_ends(kind: str, content: bytes) -> int:
    """Returns the number of lines that end in `content`, of .jsonl or .txt."""
    if kind == "jsonl" or b"\r" not in content:
        return content.count(b"\n")
    return content.count(b"\n") + content.count(b"\r") - content.count(b"\r\n")


def _cut(kind: str, held: bytes, path: Path, line: int) -> int:
    """Returns how many of the bytes are whole documents; 0 if more must be read first."""
    if kind == "jsonl":
        if (end := held.rfind(b"\n") + 1) == 0 and len(held) > LARGEST_LINE_BYTES:
            raise InputError(
                f"{path}:{line}: a line of more than {LARGEST_LINE_BYTES >> 20} MiB: must be at most that, as it has "
                "to be parsed in one piece; split the document over several lines"
            )
        return end
    last = None
    # A CR at the very end may be half of a line's end.
    for last in _DOCUMENT_END.finditer(held, 0, len(held) - held.endswith(b"\r")):  # noqa: B007
        pass
    if last is not None:
        return last.end()
    if len(held) < LARGEST_DOCUMENT_BYTES:
        return 0
    for mark in (b"\n\n", b"\n", b"\r", b". ", b" "):
        if (found := held.rfind(mark, len(held) // 2, len(held) - (mark == b"\r"))) >= 0:
            return found + len(mark)
    # No white space at all: cuts between two characters of UTF-8, whose continuation bytes begin with the bits 10.
    end = len(held)
    while end and held[end - 1] & 0xC0 == 0x80:
        end -= 1
    return max(end - 1, 1)


def _rows(name: str, rows: Iterator[list[Any]], begin: Place) -> Iterator[Portion]:
    offset = begin.offset
    for texts in rows:
        after = Place(begin.source, offset + len(texts), offset + len(texts) + 1)
        yield Portion("texts", texts, name, offset + 1, after)
        offset = after.offset


def _parquet_rows(path: Path, skip: int) -> Iterator[list[Any]]:
    """Yields the column "text" from row `skip` on; does not read groups of rows before it."""
    arrow = pyarrow(path)
    try:
        file = arrow.parquet.ParquetFile(path)
        names = file.schema_arrow.names
        if "text" not in names:
            raise InputError(f'{path}: has no column "text", only {", ".join(names)}')
        if names.count("text") > 1:
            raise InputError(f'{path}: has {names.count("text")} columns "text"; must be one')
        groups = list(range(file.num_row_groups))
        while groups and (size := file.metadata.row_group(groups[0]).num_rows) <= skip:
            skip -= size
            groups.pop(0)
        for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=groups, columns=["text"]):
            try:
                texts = batch.column(0).to_pylist()[skip:]
            except UnicodeDecodeError:
                raise InputError(f'{path}: bytes that are not UTF-8 in column "text"; convert them to UTF-8') from None
            skip = max(skip - batch.num_rows, 0)
            if texts:
                yield texts
    except (arrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: no readable .parquet file: {one_line(error)}; copy or write it again") from None


def _hub_rows(name: str, skip: int) -> Iterator[list[Any]]:
    """Yields the texts of a data set of the Hub, streamed."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise InputError(f"{name}: the extra hub is needed to read it; pip install 'anybatch[hub]'") from None
    address, _, split = name.removeprefix(HUB).partition("@")
    dataset, _, config = address.partition(",")
    # The library raises various errors: no such name, no network, no access.
    with readable(name, "data set"):
        rows = load_dataset(dataset, config or None, split=split or "train", streaming=True).skip(skip)
        for batch in in_batches(rows, lambda row: 1, _ROWS_AT_ONCE):
            if odd := next((row for row in batch if "text" not in row), None):
                raise InputError(f'{name}: has no column "text", only {", ".join(odd)}')
            yield [row["text"] for row in batch]
