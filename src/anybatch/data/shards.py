"""Token shards, made by shard_writer.py: documents of sentences of tokens, as plain .npy arrays, mapped into memory.

    FOLDER/index.json                  counts, the vocabulary's fingerprint, and bytes and SHA-256 of every file
    FOLDER/shard-00000.tokens.npy      uint16 or uint32: the tokens of all documents, one after the other
    FOLDER/shard-00000.sentences.npy   uint32: for each sentence, the index after its last token
    FOLDER/shard-00000.documents.npy   uint32: for each document, the index after its last sentence

A document is in one shard.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from anybatch.data import vocabulary
from anybatch.errors import InputError
from anybatch.files import read_json, sha256

FORMAT = "anybatch-shards"
VERSION = 1

INDEX = "index.json"
ARRAYS = ("tokens", "sentences", "documents")
COUNTS = ("documents", "sentences", "tokens")
# Bytes whose checksums are compared at every opening: under a second's work. If there are more, only `verify` reads
# every token.
_VERIFIED_WHEN_OPENED = 256 << 20


@dataclass(frozen=True)
class Shard:
    """The three arrays of one shard; offsets count within it."""

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
        """Returns the sentences of document `number`, each an array of tokens."""
        for part in self.parts:
            if number < len(part.document_ends):
                first, last = (int(part.document_ends[number - 1]) if number else 0), int(part.document_ends[number])
                ends = part.sentence_ends[first:last]
                begin = int(part.sentence_ends[first - 1]) if first else 0
                return np.split(part.tokens[begin : int(ends[-1])], (ends[:-1] - begin).astype(np.int64))
            number -= len(part.document_ends)
        raise IndexError(f"document {number} of {self.num_documents}")

    def check_vocabulary(self, tokenizer: Tokenizer) -> None:
        """Raises InputError if these shards were not written with `tokenizer`."""
        found = vocabulary.fingerprint(tokenizer)
        if found != self.vocabulary_fingerprint:
            raise InputError(
                f"{self.path}: the vocabulary does not match the shards: they were written with one of "
                f"{self.vocabulary_size} tokens (fingerprint {self.vocabulary_fingerprint[:12]}), this one has "
                f"{tokenizer.get_vocab_size()} ({found[:12]}); use the tokenizer.json beside them, or prepare again"
            )

    def check_tokens(self, tokens: NDArray[np.int64]) -> None:
        """Raises InputError if a token is not in the vocabulary; for files that were too large to read when opened."""
        if (largest := int(tokens.max(initial=0))) >= self.vocabulary_size:
            raise InputError(
                f"{self.path}: damaged: token {largest} of a vocabulary of {self.vocabulary_size}; `anybatch data "
                "inspect` names the file; remove the folder, and run `anybatch data prepare` again"
            )

    def verify(self) -> None:
        """Reads every file and compares it with its checksum; InputError names the first that differs."""
        for name, about in _files(self.path, read_json(self.path / INDEX)).items():
            if sha256(self.path / name) != about["sha256"]:
                raise InputError(
                    f"{self.path / name}: damaged: its SHA-256 is not the one in {INDEX}; "
                    "remove the folder, and run `anybatch data prepare` again"
                )


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
            raise InputError(f"{path}: no such file, but {INDEX} lists it; run `anybatch data prepare` again")
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
    if not (folder / INDEX).is_file():
        raise InputError(f"{folder}: holds no token shards (no {INDEX}); make some with `anybatch data prepare`")
    index = read_json(folder / INDEX)
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise InputError(f"{folder / INDEX}: not an index of token shards; run `anybatch data prepare` again")
    if index.get("version") != VERSION:
        raise InputError(
            f"{folder / INDEX}: version {index.get('version')} of the format; this release reads version {VERSION}; "
            "run `anybatch data prepare` again"
        )
    if missing := sorted({"vocabulary", "shards", *COUNTS} - index.keys()):
        raise InputError(f"{folder / INDEX}: damaged: has no {missing[0]!r}; run `anybatch data prepare` again")
    if not _is_consistent(index):
        raise InputError(f"{folder / INDEX}: damaged; run `anybatch data prepare` again")
    return index


def _is_consistent(index: dict[str, Any]) -> bool:
    """Returns whether the vocabulary is described, and the counts are the sums over the shards."""
    try:
        size, fingerprint = index["vocabulary"]["size"], index["vocabulary"]["fingerprint"]
        totals = [sum(shard[name] for shard in index["shards"]) for name in COUNTS]
    except (KeyError, TypeError):
        return False
    counts = [index[name] for name in COUNTS]
    return isinstance(fingerprint, str) and all(type(count) is int for count in (size, *counts)) and counts == totals


def _files(folder: Path, index: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the name of every file, with its bytes and SHA-256."""
    try:
        files = [shard["files"][name] for shard in index["shards"] for name in ARRAYS if shard[name]]
        return {str(file["name"]): {"bytes": file["bytes"], "sha256": file["sha256"]} for file in files}
    except (KeyError, TypeError):
        raise InputError(f"{folder / INDEX}: damaged; run `anybatch data prepare` again") from None


def _open_shard(folder: Path, about: dict[str, Any]) -> Shard:
    """Opens the arrays of one shard; InputError if offsets leave them, or a sentence has no token."""
    paths = {name: folder / about["files"][name]["name"] for name in ARRAYS}
    shard = Shard(*(_map(paths[name], about[name]) for name in ARRAYS))
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
    # NumPy passes on any error of its parser for a damaged header, sometimes over several lines.
    except Exception as error:
        why = " ".join(str(error).split())
        raise InputError(f"{path}: not a NumPy array: {why}; run `anybatch data prepare` again") from None
    if array.shape != (length,) or array.dtype.kind != "u":
        raise InputError(f"{path}: not the array that {INDEX} describes; run `anybatch data prepare` again")
    return array
