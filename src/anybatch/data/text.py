"""Text files to documents, and documents to sentences."""

import gzip
import json
import lzma
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from anybatch.errors import InputError

_FORMATS = (".txt", ".jsonl")
_PACKINGS = (".gz", ".xz")


@dataclass(frozen=True)
class Document:
    """`where` names the place that the text came from, for messages."""

    text: str
    where: str


def read_documents(paths: Iterable[Path]) -> Iterator[Document]:
    """The documents of text files in order, decompressed and parsed as they are read.

        .txt     UTF-8; a blank line ends a paragraph, two or more blank lines end a document
        .jsonl   one JSON object a line, its "text" a document, in which a blank line ends a paragraph
        .gz .xz  either of them, compressed

    The last suffixes decide, in capitals or not. Every path is checked before the first document is
    read.

    Raises:
        InputError: a missing or empty file, another kind of file, damaged compression, bytes that are not UTF-8 text,
            a line that is not JSON, a document without text; with the file and the line.
    """
    files = [_checked(Path(path)) for path in paths]
    if not files:
        raise InputError("no text files are given; name at least one .txt or .jsonl file")
    for path in files:
        documents = _jsonl_documents(path) if _kind(path)[0] == ".jsonl" else _plain_documents(path)
        number = 0
        for number, document in enumerate(documents, start=1):  # noqa: B007
            yield document
        if not number:
            raise InputError(f"{path}: empty: there is no text in it")


def _checked(path: Path) -> Path:
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name the files in it")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if (kind := _kind(path)[0]) not in _FORMATS:
        raise InputError(f"{path}: unknown kind of file {kind!r}; must end in .txt or .jsonl, or these with .gz or .xz")
    return path


def _kind(path: Path) -> tuple[str, str]:
    """The suffixes that tell the format and the packing, in lower case; "" where there is none."""
    packing = path.suffix.lower() if path.suffix.lower() in _PACKINGS else ""
    return (path.with_suffix("") if packing else path).suffix.lower(), packing


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line without its end), numbers from 1; bounded by the longest line in memory."""
    number = 0
    try:
        with _open(path) as stream:
            for number, raw in enumerate(stream, start=1):
                yield number, _decode(raw, path, number)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise InputError(f"{path}:{number + 1}: damaged {path.suffix} file: {error}; copy or pack it again") from None
    except PermissionError:
        raise InputError(f"{path}: may not be read; change its permissions") from None


def _open(path: Path) -> BinaryIO:
    packing = _kind(path)[1]
    if packing == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if packing == ".xz":
        return cast(BinaryIO, lzma.open(path, "rb"))
    return open(path, "rb")


def _decode(raw: bytes, path: Path, number: int) -> str:
    if b"\0" in raw:
        raise InputError(
            f"{path}:{number}: not text: byte {raw.index(0)} of the line is NUL; only UTF-8 text can be read"
        )
    try:
        line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}:{number}: not UTF-8 text (byte {error.start} of the line); convert it to UTF-8"
        ) from None
    return line.rstrip("\r\n")


def _plain_documents(path: Path) -> Iterator[Document]:
    lines: list[str] = []
    first = blank = 0
    for number, line in _lines(path):
        if line and not line.isspace():
            if lines and blank >= 2:
                yield Document("\n".join(lines), f"{path}:{first}")
                lines = []
            elif lines and blank:
                lines.append("")
            first = first if lines else number
            lines.append(line)
            blank = 0
        else:
            blank += 1
    if lines:
        yield Document("\n".join(lines), f"{path}:{first}")


def _jsonl_documents(path: Path) -> Iterator[Document]:
    for number, line in _lines(path):
        if not line or line.isspace():
            continue
        where = f"{path}:{number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{where}: not valid JSON: {error.msg} (column {error.colno})") from None
        except (RecursionError, ValueError) as error:
            raise InputError(f"{where}: not valid JSON: {error}") from None
        if not isinstance(value, dict):
            raise InputError(f'{where}: must be a JSON object with a "text", not a {type(value).__name__}')
        if "text" not in value:
            raise InputError(f'{where}: the object has no "text"')
        text = value["text"]
        if not isinstance(text, str):
            raise InputError(f'{where}: "text" must be a string, not a {type(text).__name__}')
        if not text.strip():
            raise InputError(f'{where}: "text" is blank')
        if "\\ud" in line.lower() and any("\ud800" <= character <= "\udfff" for character in text):
            raise InputError(f'{where}: "text" holds half of a surrogate pair, which is not a character')
        yield Document(text, where)


_PARAGRAPH_END = re.compile(r"\n\s*\n")
# A sentence may end behind . ! ? … and closing marks, where a capital, a digit or an opening mark follows.
_END = re.compile(
    r"""[.!?…](?P<closing>["'”’»)\]]*)\s+(?=["'“‘«(\[]*[A-Z0-9À-ÖØ-ÞĀĂĄĆČĎĐĒĘĚĞĪŁŃŇŌŒŘŚŞŠŤŪŮŽΑ-ΩА-Я]|["“‘«])""",
)
_TITLES = """
al approx apr aug bros ca capt cf cmdr co col corp dec dept dr e.g esq feb fr fri ft gen gov hon i.e inc jan jr jul jun
lt ltd maj mar messrs mlle mme mon mr mrs ms mt nov oct pres prof rep rev sen sep sept sgt sr st ste supt thu thur thurs
tue tues univ viz vs wed
"""
_COUNTED = "art b bk c ch chap d eq fig figs fl no nos op p par pp pt sec sect ver vol vols"
_BEFORE_NAMES = frozenset(_TITLES.split())
_BEFORE_NUMBERS = frozenset(_COUNTED.split())
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")


def split_sentences(text: str) -> list[str]:
    """The sentences of `text`, each on one line; the end of a paragraph (a blank line) always ends a sentence.

    Inside a paragraph a sentence ends behind '.', '!', '?' or '…', with the quotes and brackets that close there, where
    white space and then a capital, a digit or an opening quote follow; but not behind a common abbreviation, an initial
    or dotted letters ('J.', 'U.S.'), nor the number of a list item ('1.').

    >>> split_sentences("Dr. J. Smith paid 3.50 dollars. “Why?” he asked.\\nNobody knew.\\n\\nThe end")
    ['Dr. J. Smith paid 3.50 dollars.', '“Why?” he asked.', 'Nobody knew.', 'The end']
    """
    sentences = []
    for paragraph in _PARAGRAPH_END.split(text):
        line = " ".join(paragraph.split())
        start = 0
        for match in _END.finditer(line):
            if line[match.start()] == "." and not match["closing"] and _goes_on(line, start, match):
                continue
            sentences.append(line[start : match.end()].rstrip())
            start = match.end()
        if start < len(line):
            sentences.append(line[start:])
    return sentences


def _goes_on(line: str, start: int, match: re.Match[str]) -> bool:
    """Whether the full stop at `match` belongs to the word before it, in the sentence from `start`."""
    stop = match.start()
    first = max(line.rfind(" ", start, stop) + 1, start)
    word = line[first:stop].lstrip("\"'“‘«([")
    if word.isdecimal():
        return first == start
    lower = word.lower()
    if lower in _BEFORE_NUMBERS:
        return line[match.end()].isdecimal() or word.isupper()
    return lower in _BEFORE_NAMES or (_INITIALS.fullmatch(word) is not None and word != "I")
