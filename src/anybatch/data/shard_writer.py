"""Writes token shards (see shards.py): appends documents as they come, so memory stays small."""

import io
import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from anybatch.data import vocabulary
from anybatch.data.shards import ARRAYS, COUNTS, FORMAT, INDEX, VERSION
from anybatch.data.words import token_dtype
from anybatch.errors import InputError
from anybatch.files import sha256, write_json

MAX_SHARD_TOKENS = 1 << 25

_LARGEST_OFFSET = 2**32 - 1


class ShardWriter:
    """Writes documents into an existing folder; nothing can be opened before `close`.

    Args:
        state: an earlier result of `state`, to continue from in the same folder; what was written after it is
            discarded.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: Tokenizer,
        max_shard_tokens: int = MAX_SHARD_TOKENS,
        state: dict[str, Any] | None = None,
    ) -> None:
        self._folder = folder
        self._max_shard_tokens = max_shard_tokens
        self._dtypes: dict[str, Any] = {**dict.fromkeys(ARRAYS, np.uint32), "tokens": token_dtype(tokenizer)}
        state = state or {"index": {**dict.fromkeys(COUNTS, 0), "shards": []}, "open": dict.fromkeys(ARRAYS, 0)}
        self._index: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "vocabulary": {"size": tokenizer.get_vocab_size(), "fingerprint": vocabulary.fingerprint(tokenizer)},
            **state["index"],
        }
        self._counts: dict[str, int] = dict(state["open"])
        self._files: dict[str, io.FileIO] = {}
        if self._counts["tokens"]:
            self._open()
            for name, file in self._files.items():
                file.truncate(len(self._header(name)) + self._counts[name] * np.dtype(self._dtypes[name]).itemsize)
                file.seek(0, os.SEEK_END)

    def add(self, sentences: Sequence[Sequence[int]]) -> None:
        """Adds one document: its sentences as token numbers; empty sentences and documents are skipped."""
        lengths = np.array([len(sentence) for sentence in sentences if sentence], dtype=np.int64)
        tokens = np.fromiter(chain.from_iterable(sentences), dtype=self._dtypes["tokens"], count=int(lengths.sum()))
        self.add_documents(tokens, lengths, np.array([len(lengths)][: len(lengths)], dtype=np.int64))

    def add_documents(
        self, tokens: NDArray[Any], sentence_lengths: NDArray[np.int64], num_sentences: NDArray[np.int64]
    ) -> None:
        """Adds D documents of S sentences of N tokens: tokens [N], sentence_lengths int64[S], num_sentences int64[D].

        No sentence and no document is empty.
        """
        sentence_ends, document_ends = np.cumsum(sentence_lengths), np.cumsum(num_sentences)
        token_ends = sentence_ends[document_ends - 1]
        if len(token_ends) and (largest := int(np.diff(token_ends, prepend=0).max())) > _LARGEST_OFFSET:
            raise InputError(f"a document of {largest} tokens: must have at most {_LARGEST_OFFSET}; split it")
        first = 0
        while first < len(token_ends):
            token, sentence = (int(ends[first - 1]) if first else 0 for ends in (token_ends, document_ends))
            room = self._max_shard_tokens - self._counts["tokens"]
            last = int(np.searchsorted(token_ends, token + room, side="right"))
            if last == first and self._counts["tokens"]:
                self._finish_shard()
                continue
            # A document above the limit gets a separate shard.
            last = max(last, first + 1)
            self._append(
                tokens=tokens[token : token_ends[last - 1]],
                sentences=sentence_ends[sentence : document_ends[last - 1]] - token + self._counts["tokens"],
                documents=document_ends[first:last] - sentence + self._counts["sentences"],
            )
            first = last

    def state(self) -> dict[str, Any]:
        """Returns what is needed to continue after a kill, as JSON types; everything before it is on the disk."""
        for file in self._files.values():
            os.fsync(file.fileno())
        return {"index": {name: self._index[name] for name in (*COUNTS, "shards")}, "open": dict(self._counts)}

    def close(self) -> dict[str, int]:
        """Writes the rest and the index; returns the counts of documents, sentences and tokens."""
        if self._counts["tokens"]:
            self._finish_shard()
        # A shard that was begun after the state from which this writer continued, and not begun again.
        known = {about["name"] for shard in self._index["shards"] for about in shard["files"].values()}
        for left in self._folder.glob("shard-*.npy"):
            if left.name not in known:
                left.unlink()
        write_json(self._folder / INDEX, self._index)
        return {name: int(self._index[name]) for name in COUNTS}

    def abandon(self) -> None:
        """Closes the files, as they are."""
        for file in self._files.values():
            file.close()
        self._files = {}

    def _path(self, name: str) -> Path:
        return self._folder / f"shard-{len(self._index['shards']):05d}.{name}.npy"

    def _open(self) -> None:
        # Without a buffer: a failed write is not tried again when the file is closed.
        for name in ARRAYS:
            mode = "r+" if self._counts[name] else "w+"
            self._files[name] = io.FileIO(self._path(name), mode)

    def _append(self, **arrays: NDArray[Any]) -> None:
        if not self._files:
            self._open()
            for name in ARRAYS:
                self._write(name, self._header(name))
        for name, array in arrays.items():
            self._write(name, np.ascontiguousarray(array, dtype=self._dtypes[name]).data.cast("B"))
            self._counts[name] += len(array)

    def _write(self, name: str, content: bytes | memoryview) -> None:
        try:
            left = memoryview(content)
            while left:
                left = left[self._files[name].write(left) :]
        except OSError as error:
            error.filename = str(self._path(name))
            raise

    def _header(self, name: str) -> bytes:
        """Returns the .npy header for the present count; NumPy keeps its length the same for any count."""
        header = io.BytesIO()
        about = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(self._dtypes[name])),
            "fortran_order": False,
            "shape": (self._counts[name],),
        }
        np.lib.format.write_array_header_1_0(header, about)
        return header.getvalue()

    def _finish_shard(self) -> None:
        written = {}
        for name, file in self._files.items():
            file.seek(0)
            self._write(name, self._header(name))
            file.close()
            path = self._path(name)
            written[name] = {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}
        for name, count in self._counts.items():
            self._index[name] += count
        self._index["shards"].append({**self._counts, "files": written})
        self._counts = dict.fromkeys(ARRAYS, 0)
        self._files = {}
