"""Token shards: documents of sentences of tokens, as plain .npy arrays that are mapped into memory.

    FOLDER/index.json                  counts, the vocabulary's fingerprint, and bytes and SHA-256 of every file
    FOLDER/shard-00000.tokens.npy      uint16 or uint32: the tokens of all documents, one after the other
    FOLDER/shard-00000.sentences.npy   uint32: for each sentence, the token behind its last one
    FOLDER/shard-00000.documents.npy   uint32: for each document, the sentence behind its last one

A document lies in one shard.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from anybatch.data import vocabulary
from anybatch.errors import InputError
from anybatch.files import read_json, sha256, write_json

FORMAT = "anybatch-shards"
VERSION = 1
MAX_SHARD_TOKENS = 1 << 25

_INDEX = "index.json"
_ARRAYS = ("tokens", "sentences", "documents")
_COUNTS = ("documents", "sentences", "tokens")
_LARGEST_OFFSET = 2**32 - 1
# Bytes whose checksums are compared at every opening: under a second's work. Of more, only `verify` reads every token.
_VERIFIED_WHEN_OPENED = 256 << 20


@dataclass(frozen=True)
class Shard:
    """The three arrays of one shard, offsets counted within it."""

    tokens: NDArray[Any]
    sentence_ends: NDArray[np.uint32]
    document_ends: NDArray[np.uint32]


@dataclass(frozen=True)
class Shards:
    """Opened shards, read only."""

    path: Path
    num_documents: int
    num_sentences: int
    num_tokens: int
    vocabulary_size: int
    vocabulary_fingerprint: str
    parts: tuple[Shard, ...]

    def document(self, number: int) -> list[NDArray[Any]]:
        """The sentences of document `number`, each an array of tokens."""
        for part in self.parts:
            if number < len(part.document_ends):
                first, last = (int(part.document_ends[number - 1]) if number else 0), int(part.document_ends[number])
                ends = part.sentence_ends[first:last]
                begin = int(part.sentence_ends[first - 1]) if first else 0
                return np.split(part.tokens[begin : int(ends[-1])], (ends[:-1] - begin).astype(np.int64))
            number -= len(part.document_ends)
        raise IndexError(f"document {number} of {self.num_documents}")

    def check_vocabulary(self, tokenizer: Tokenizer) -> None:
        """InputError where `tokenizer` is not the one that these shards were written with."""
        found = vocabulary.fingerprint(tokenizer)
        if found != self.vocabulary_fingerprint:
            raise InputError(
                f"{self.path}: the vocabulary does not match the shards: they were written with one of "
                f"{self.vocabulary_size} tokens (fingerprint {self.vocabulary_fingerprint[:12]}), this one has "
                f"{tokenizer.get_vocab_size()} ({found[:12]}); use the tokenizer.json beside them, or prepare again"
            )

    def verify(self) -> None:
        """Reads every file and compares it with its checksum; InputError names the first that differs."""
        for name, about in _files(self.path, read_json(self.path / _INDEX)).items():
            if sha256(self.path / name) != about["sha256"]:
                raise InputError(
                    f"{self.path / name}: damaged: its SHA-256 is not the one in {_INDEX}; "
                    "run `anybatch data prepare` again"
                )


class ShardWriter:
    """Writes documents into an existing empty folder; nothing can be opened before `close`."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, max_shard_tokens: int = MAX_SHARD_TOKENS) -> None:
        self._folder = folder
        self._max_shard_tokens = max_shard_tokens
        largest = max(tokenizer.get_vocab().values())
        self._dtype: type[np.unsignedinteger[Any]] = np.uint16 if largest < 2**16 else np.uint32
        self._index: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "vocabulary": {"size": tokenizer.get_vocab_size(), "fingerprint": vocabulary.fingerprint(tokenizer)},
            **dict.fromkeys(_COUNTS, 0),
            "shards": [],
        }
        self._start_shard()

    def add(self, sentences: Sequence[Sequence[int]]) -> None:
        """One document: its sentences as token numbers; empty sentences, and a document of no other, are left out."""
        lengths = np.array([len(sentence) for sentence in sentences if sentence], dtype=np.int64)
        num_tokens = int(lengths.sum())
        if not num_tokens:
            return
        if num_tokens > _LARGEST_OFFSET:
            raise InputError(f"a document of {num_tokens} tokens: must have at most {_LARGEST_OFFSET}; split it")
        if self._num_tokens and self._num_tokens + num_tokens > self._max_shard_tokens:
            self._write_shard()
        self._tokens.append(np.fromiter(chain.from_iterable(sentences), dtype=self._dtype, count=num_tokens))
        self._sentence_ends.append((np.cumsum(lengths) + self._num_tokens).astype(np.uint32))
        self._document_lengths.append(len(lengths))
        self._num_tokens += num_tokens

    def close(self) -> dict[str, int]:
        """Writes what is left and the index; returns the counts of documents, sentences and tokens."""
        if self._num_tokens:
            self._write_shard()
        write_json(self._folder / _INDEX, self._index)
        return {name: int(self._index[name]) for name in _COUNTS}

    def _start_shard(self) -> None:
        self._tokens: list[NDArray[Any]] = []
        self._sentence_ends: list[NDArray[np.uint32]] = []
        self._document_lengths: list[int] = []
        self._num_tokens = 0

    def _write_shard(self) -> None:
        arrays = {
            "tokens": np.concatenate(self._tokens),
            "sentences": np.concatenate(self._sentence_ends),
            "documents": np.cumsum(self._document_lengths).astype(np.uint32),
        }
        counts = {name: len(array) for name, array in arrays.items()}
        for name, count in counts.items():
            self._index[name] += count
        stem = f"shard-{len(self._index['shards']):05d}"
        written = {
            name: {"name": f"{stem}.{name}.npy", **_write_array(self._folder / f"{stem}.{name}.npy", array)}
            for name, array in arrays.items()
        }
        self._index["shards"].append({**counts, "files": written})
        self._start_shard()


def open_shards(folder: Path) -> Shards:
    """Maps the shards in `folder`; checks the index, the size of every file and the order of the offsets.

    Up to 256 MB of shards are also compared with their checksums; of more, no token is read.

    Raises:
        InputError: no index, another format or version, a missing, truncated or damaged file.
    """
    index = _read_index(folder)
    files = _files(folder, index)
    for name, about in files.items():
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path}: no such file, but {_INDEX} lists it; run `anybatch data prepare` again")
        if (found := path.stat().st_size) != about["bytes"]:
            raise InputError(
                f"{path}: truncated or changed: {found} bytes, not {about['bytes']}; run `anybatch data prepare` again"
            )
    shards = Shards(
        path=folder,
        num_documents=index["documents"],
        num_sentences=index["sentences"],
        num_tokens=index["tokens"],
        vocabulary_size=index["vocabulary"]["size"],
        vocabulary_fingerprint=index["vocabulary"]["fingerprint"],
        parts=tuple(_open_shard(folder, shard) for shard in index["shards"]),
    )
    if sum(about["bytes"] for about in files.values()) <= _VERIFIED_WHEN_OPENED:
        shards.verify()
    return shards


def _read_index(folder: Path) -> dict[str, Any]:
    if not (folder / _INDEX).is_file():
        raise InputError(f"{folder}: holds no token shards (no {_INDEX}); make some with `anybatch data prepare`")
    index = read_json(folder / _INDEX)
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise InputError(f"{folder / _INDEX}: not an index of token shards; run `anybatch data prepare` again")
    if index.get("version") != VERSION:
        raise InputError(
            f"{folder / _INDEX}: version {index.get('version')} of the format; this release reads version {VERSION}; "
            "run `anybatch data prepare` again"
        )
    if missing := sorted({"vocabulary", "shards", *_COUNTS} - index.keys()):
        raise InputError(f"{folder / _INDEX}: damaged: has no {missing[0]!r}; run `anybatch data prepare` again")
    if not _is_consistent(index):
        raise InputError(f"{folder / _INDEX}: damaged; run `anybatch data prepare` again")
    return index


def _is_consistent(index: dict[str, Any]) -> bool:
    """Whether the vocabulary is described, and the counts are those of the shards together."""
    try:
        size, fingerprint = index["vocabulary"]["size"], index["vocabulary"]["fingerprint"]
        totals = [sum(shard[name] for shard in index["shards"]) for name in _COUNTS]
    except (KeyError, TypeError):
        return False
    counts = [index[name] for name in _COUNTS]
    return isinstance(fingerprint, str) and all(type(count) is int for count in (size, *counts)) and counts == totals


def _files(folder: Path, index: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Name to bytes and SHA-256 of every file."""
    try:
        files = [shard["files"][name] for shard in index["shards"] for name in _ARRAYS if shard[name]]
        return {str(file["name"]): {"bytes": file["bytes"], "sha256": file["sha256"]} for file in files}
    except (KeyError, TypeError):
        raise InputError(f"{folder / _INDEX}: damaged; run `anybatch data prepare` again") from None


def _open_shard(folder: Path, about: dict[str, Any]) -> Shard:
    """The arrays of one shard; InputError where offsets lead out of them, or to sentences without a token."""
    paths = {name: folder / about["files"][name]["name"] for name in _ARRAYS}
    shard = Shard(*(_map(paths[name], about[name]) for name in _ARRAYS))
    _check_ends(paths["sentences"], shard.sentence_ends, len(shard.tokens))
    _check_ends(paths["documents"], shard.document_ends, len(shard.sentence_ends))
    return shard


def _check_ends(path: Path, ends: NDArray[Any], last: int) -> None:
    if not len(ends) or ends[0] == 0 or ends[-1] != last or (ends[1:] <= ends[:-1]).any():
        raise InputError(
            f"{path}: damaged: its offsets do not ascend from above 0 to {last}; run `anybatch data prepare` again"
        )


def _map(path: Path, length: int) -> NDArray[Any]:
    try:
        # A plain array over the mapped memory: indexing numpy.memmap itself costs several times as much.
        array = np.asarray(np.lib.format.open_memmap(path, mode="r"))
    # NumPy hands on whatever its parser meets in a damaged header, over several lines at times.
    except Exception as error:
        why = " ".join(str(error).split())
        raise InputError(f"{path}: not a NumPy array: {why}; run `anybatch data prepare` again") from None
    if array.shape != (length,) or array.dtype.kind != "u":
        raise InputError(f"{path}: not the array that {_INDEX} describes; run `anybatch data prepare` again")
    return array


def _write_array(path: Path, array: NDArray[Any]) -> dict[str, Any]:
    """Writes a .npy file and returns its size and checksum; numpy.save would hide why a write failed."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for part in (header.getbuffer(), array.data.cast("B")):
            file.write(part)
            digest.update(part)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}
