"""Raw portions of files to documents, and documents to hashes or tokens: in any process."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anybatch.data import duplicates, vocabulary
from anybatch.data.raw import Place, Portion, find_sources, line_ends, read_portions
from anybatch.data.sentences import clean, split_sentences
from anybatch.data.words import Encoder
from anybatch.errors import InputError
from anybatch.files import json_kind, why_not_json


def read_documents(names: Iterable[str | Path]) -> Iterator[str]:
    """Yields the documents of text files in order, decompressed and parsed as they are read.

        .txt           UTF-8; a blank line ends a paragraph, two or more blank lines end a document; lines end in LF,
                       CR or both
        .jsonl         one JSON object a line, its "text" a document, in which a blank line ends a paragraph
        .gz .xz .zst   either of them, compressed
        .parquet       its column "text"

    The last suffixes decide, in capitals or not; for folders, globs, lists and the Hub see `raw.find_sources`. Every
    name is checked before the first document is read. A plain-text document above 4 MiB comes in several parts.

    Raises:
        InputError: a missing or empty file, another kind of file, damaged compression, bytes that are not UTF-8 text,
            a line that is not JSON, a document without text; with the file and the line.
    """
    sources = find_sources(names)
    for _, documents in parsed(read_portions(sources), sources):
        yield from documents


def parsed(
    portions: Iterable[Portion], sources: Sequence[str], *, keep_blank: bool = False
) -> Iterator[tuple[Portion, list[str]]]:
    """Yields each portion with its documents (see `parse`); InputError if one of the `sources` has none."""
    source = count = 0
    for portion in portions:
        documents = parse(portion, keep_blank=keep_blank)
        if portion.end.source != source:
            check_not_empty(sources[source : portion.end.source], count)
            source, count = portion.end.source, 0
        count += len(documents)
        yield portion, documents
    check_not_empty(sources[source:], count)


def check_not_empty(ended: Sequence[str], num_documents: int) -> None:
    """Raises InputError if a source gave no document: `ended` are one with `num_documents`, and others without any."""
    if empty := ended[1:] if num_documents else ended:
        raise InputError(f"{empty[0]}: empty: there is no text in it")


def parse(portion: Portion, *, keep_blank: bool = False) -> list[str]:
    """Parses the documents of a portion; one without text is an error, or with `keep_blank` an empty document."""
    if portion.kind == "txt":
        return _plain_documents(portion)
    if portion.kind == "jsonl":
        return _jsonl_documents(portion, keep_blank)
    return [
        _document(text, f"{portion.name}:{number}", keep_blank)
        for number, text in enumerate(portion.content, start=portion.line)
    ]


def _decode(portion: Portion) -> str:
    content = portion.content
    assert isinstance(content, bytes)
    nul = content.find(b"\0")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        if nul < 0 or error.start < content.rfind(b"\n", 0, nul) + 1:
            line, byte = _line_of(portion, error.start)
            raise InputError(
                f"{portion.name}:{line}: not UTF-8 text (byte {byte} of the line); convert it to UTF-8"
            ) from None
    if nul >= 0:
        line, byte = _line_of(portion, nul)
        raise InputError(
            f"{portion.name}:{line}: not text: byte {byte} of the line is NUL; only UTF-8 text can be read"
        )
    return text.removeprefix("\ufeff") if portion.line == 1 else text


def _line_of(portion: Portion, place: int) -> tuple[int, int]:
    """Returns the number of the line with byte `place` of the portion, and the byte's number in it."""
    assert isinstance(portion.content, bytes)
    before = portion.content[:place]
    begin = before.rfind(b"\n") if portion.kind == "jsonl" else max(before.rfind(b"\n"), before.rfind(b"\r"))
    return portion.line + line_ends(portion.kind, before), place - begin - 1


def _plain_documents(portion: Portion) -> list[str]:
    found: list[str] = []
    lines: list[str] = []
    blank = 0
    text = _decode(portion).replace("\r\n", "\n").replace("\r", "\n")
    for line in text.split("\n"):
        if line and not line.isspace():
            if lines and blank >= 2:
                found.append("\n".join(lines))
                lines = []
            elif lines and blank:
                lines.append("")
            lines.append(line)
            blank = 0
        else:
            blank += 1
    return [*found, "\n".join(lines)] if lines else found


def _jsonl_documents(portion: Portion, keep_blank: bool) -> list[str]:
    found: list[str] = []
    for number, line in enumerate(_decode(portion).split("\n"), start=portion.line):
        if not line or line.isspace():
            continue
        where = f"{portion.name}:{number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{where}: not valid JSON: {error.msg} (column {error.colno})") from None
        except (RecursionError, ValueError) as error:
            raise InputError(f"{where}: not valid JSON: {why_not_json(error)}") from None
        if not isinstance(value, dict):
            raise InputError(f'{where}: must be a JSON object with a "text", not {json_kind(value)}')
        if "text" not in value:
            raise InputError(f'{where}: the object has no "text"')
        found.append(_document(value["text"], where, keep_blank))
    return found


def _document(text: object, where: str, keep_blank: bool) -> str:
    if keep_blank and text is None:
        return ""
    if not isinstance(text, str):
        hint = "; --min-characters 1 leaves such documents out" if text is None else ""
        raise InputError(f'{where}: "text" must be a string, not {json_kind(text)}{hint}')
    if not text or text.isspace():
        if keep_blank:
            return ""
        raise InputError(f'{where}: "text" is blank; --min-characters 1 leaves such documents out')
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f'{where}: "text" holds half of a surrogate pair, which is not a character') from None
    return text


@dataclass(frozen=True)
class LengthFilter:
    """Skips documents of fewer or more characters, after cleaning; 0 and None skip none; then a blank one fails."""

    fewest: int = 0
    most: int | None = None

    def __post_init__(self) -> None:
        if self.most is not None and self.most < self.fewest:
            raise InputError(
                f"documents of at least {self.fewest} and at most {self.most} characters: there are none; "
                "raise --max-characters or lower --min-characters"
            )

    def texts(self, portion: Portion) -> list[str]:
        """Returns the cleaned documents of a portion, "" in place of a skipped one."""
        found = [clean(document) for document in parse(portion, keep_blank=self.fewest > 0)]
        return [text if self.fewest <= len(text) <= (self.most or len(text)) else "" for text in found]


@dataclass(frozen=True)
class EncodedPortion:
    """D documents, encoded.

    `num_sentences` int64[D] counts the sentences of each with a token, 0 if the document is skipped. Then the lengths
    of all sentences together, and their tokens. `num_filtered` were skipped because of their length.
    """

    end: Place
    num_sentences: NDArray[np.int64]
    sentence_lengths: NDArray[np.int64]
    tokens: NDArray[Any]
    num_filtered: int


def hash_portion(lengths: LengthFilter, portion: Portion) -> tuple[Place, duplicates.Hashes]:
    """Returns the portion's end, and a hash for each document, uint64[D, 2]."""
    return portion.end, duplicates.hashes(lengths.texts(portion))


def encode_portion(tokenizer: Path, fingerprint: str, kept: LengthFilter, portion: Portion) -> EncodedPortion:
    """Encodes a portion with the tokenizer.json at `tokenizer`, which has this fingerprint."""
    texts = kept.texts(portion)
    sentences = [split_sentences(text) for text in texts]
    # The space between two sentences belongs to the second; WordPiece has no token for it, characters do.
    spaced = [f" {each}" if number else each for part in sentences for number, each in enumerate(part)]
    tokens, lengths = _encoder(tokenizer, fingerprint).encode(spaced)
    owners = np.repeat(np.arange(len(texts)), [len(part) for part in sentences])
    filled = lengths > 0
    return EncodedPortion(
        portion.end,
        np.bincount(owners[filled], minlength=len(texts)),
        lengths[filled],
        tokens,
        texts.count("") if kept != LengthFilter() else 0,
    )


@lru_cache(maxsize=1)
def _encoder(tokenizer: Path, fingerprint: str) -> Encoder:
    """Returns an encoder that is kept from portion to portion, with the words that it has met."""
    return Encoder(vocabulary.load(tokenizer))
