"""Token shards, made by shard_writer.py: documents of sentences of tokens, as plain .npy arrays, mapped into memory.

    FOLDER/index.json                  counts, the vocabulary's fingerprint, and bytes and SHA-256 of every file
    FOLDER/shard-00000.tokens.npy      uint16 or uint32: the tokens of all documents, one after the other
    FOLDER/shard-00000.sentences.npy   uint32: for each sentence, the index after its last token
    FOLDER/shard-00000.documents.npy   uint32: for each document, the index after its last sentence

A document is in one shard.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from anybatch.data import vocabulary
from anybatch.errors import InputError, one_line
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
    """Opened shards, read only; `files` has the bytes and the SHA-256 of every file, by its name."""

    path: Path
    num_documents: int
    num_sentences: int
    num_tokens: int
    vocabulary_size: int
    vocabulary_fingerprint: str
    parts: tuple[Shard, ...]
    files: dict[str, dict[str, Any]]

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

    def frequency_loss(self, targets: Sequence[NDArray[Any]], separator: int | None = None) -> float:
        """Returns the mean cross-entropy of `targets` under the tokens' frequencies, in nats.

        A language model must be better before it has learned anything else. Each token of the vocabulary is counted
        once more than it occurs (Laplace), in the first shard only; this sample is large enough for frequencies. The
        `separator`, if any, also occurs after each document.
        """
        counts = np.bincount(self.parts[0].tokens, minlength=self.vocabulary_size) + 1
        if separator is not None:
            counts[separator] += len(self.parts[0].document_ends)
        return float(-np.log(counts[np.concatenate(targets)] / counts.sum()).mean())

    def verify(self) -> None:
        """Reads every file and compares it with its checksum; InputError names the first that differs."""
        for name, about in self.files.items():
            if sha256(self.path / name) != about["sha256"]:
                raise _damaged(
                    self.path / name, f"damaged: its SHA-256 is not the one in {INDEX}", "remove the folder, and run"
                )


def open_shards(folder: Path) -> Shards:
    """Maps the shards in `folder`; checks the index, the size of every file and the order of the offsets.

    Up to 256 MB of shards are also compared with their checksums; of more, no token is read.

    Raises:
        InputError: no index, another format or version, a missing, truncated or damaged file.
    """
    index, files = _read_index(folder)
    for name, about in files.items():
        path = folder / name
        if not path.is_file():
            raise _damaged(path, f"no such file, but {INDEX} lists it")
        if (found := path.stat().st_size) != about["bytes"]:
            raise _damaged(path, f"truncated or changed: {found} bytes, not {about['bytes']}")
    shards = Shards(
        path=folder,
        num_documents=index["documents"],
        num_sentences=index["sentences"],
        num_tokens=index["tokens"],
        vocabulary_size=index["vocabulary"]["size"],
        vocabulary_fingerprint=index["vocabulary"]["fingerprint"],
        parts=tuple(_open_shard(folder, shard) for shard in index["shards"]),
        files=files,
    )
    if sum(about["bytes"] for about in files.values()) <= _VERIFIED_WHEN_OPENED:
        shards.verify()
    return shards


def _read_index(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Returns the index, and its description of every file, by the file's name."""
    path = folder / INDEX
    if not path.is_file():
        raise InputError(f"{folder}: holds no token shards (no {INDEX}); make some with `anybatch data prepare`")
    index = read_json(path)
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise _damaged(path, "not an index of token shards")
    if index.get("version") != VERSION:
        raise _damaged(path, f"version {index.get('version')} of the format; this release reads version {VERSION}")
    if missing := sorted({"vocabulary", "shards", *COUNTS} - index.keys()):
        raise _damaged(path, f"damaged: has no {missing[0]!r}")
    try:
        about, shards, counts = index["vocabulary"], index["shards"], [index[name] for name in COUNTS]
        files = {str(file["name"]): file for shard in shards for file in (shard["files"][name] for name in ARRAYS)}
        sound = (
            isinstance(about["fingerprint"], str)
            and all(type(count) is int for count in (about["size"], *counts))
            and counts == [sum(shard[name] for shard in shards) for name in COUNTS]
            and all({"bytes", "sha256"} <= file.keys() for file in files.values())
        )
    except (KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise _damaged(path, "damaged")
    return index, files


def _damaged(path: Path, what: str, how: str = "run") -> InputError:
    return InputError(f"{path}: {what}; {how} `anybatch data prepare` again")


def _open_shard(folder: Path, about: dict[str, Any]) -> Shard:
    """Opens the arrays of one shard; InputError if offsets leave them, or a sentence has no token."""
    paths = {name: folder / about["files"][name]["name"] for name in ARRAYS}
    shard = Shard(*(_map(paths[name], about[name]) for name in ARRAYS))
    _check_ends(paths["sentences"], shard.sentence_ends, len(shard.tokens))
    _check_ends(paths["documents"], shard.document_ends, len(shard.sentence_ends))
    return shard


def _check_ends(path: Path, ends: NDArray[Any], last: int) -> None:
    if not len(ends) or ends[0] == 0 or ends[-1] != last or (ends[1:] <= ends[:-1]).any():
        raise _damaged(path, f"damaged: its offsets do not ascend from above 0 to {last}")


def _map(path: Path, length: int) -> NDArray[Any]:
    try:
        # A plain array over the mapped memory: indexing numpy.memmap itself costs several times as much.
        array = np.asarray(np.lib.format.open_memmap(path, mode="r"))
    # NumPy passes on any error of its parser for a damaged header, sometimes over several lines.
    except Exception as error:
        raise _damaged(path, f"not a NumPy array: {one_line(error)}") from None
    if array.shape != (length,) or array.dtype.kind != "u":
        raise _damaged(path, f"not the array that {INDEX} describes")
    return array
