"""Writes token shards (see shards.py): appends documents as they come, so memory stays small."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from anybatch.data import vocabulary
from anybatch.data.shards import ARRAYS, COUNTS, FORMAT, INDEX, VERSION
from anybatch.data.words import token_dtype
from anybatch.errors import InputError
from anybatch.files import named_errors, sha256, write_json

MAX_SHARD_TOKENS = 1 << 25

_LARGEST_OFFSET = 2**32 - 1
# NumPy gives the header of any array of one dimension this length.
_HEADER_BYTES = 128


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
        self._dtypes = {name: np.dtype(token_dtype(tokenizer) if name == "tokens" else np.uint32) for name in ARRAYS}
        state = state or {"index": {**dict.fromkeys(COUNTS, 0), "shards": []}, "open": dict.fromkeys(ARRAYS, 0)}
        self._index: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "vocabulary": {"size": tokenizer.get_vocab_size(), "fingerprint": vocabulary.fingerprint(tokenizer)},
            **state["index"],
        }
        self._counts: dict[str, int] = dict(state["open"])
        self._files: dict[str, io.FileIO] = {}

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
            added = {
                "tokens": tokens[token : token_ends[last - 1]],
                "sentences": sentence_ends[sentence : document_ends[last - 1]] - token + self._counts["tokens"],
                "documents": document_ends[first:last] - sentence + self._counts["sentences"],
            }
            for name, array in added.items():
                self._write(name, np.ascontiguousarray(array, dtype=self._dtypes[name]).data.cast("B"))
                self._counts[name] += len(array)
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
        write_json(self._folder / INDEX, self._index)
        return {name: int(self._index[name]) for name in COUNTS}

    def abandon(self) -> None:
        """Closes the files, as they are."""
        for file in self._files.values():
            file.close()
        self._files = {}

    def _path(self, name: str) -> Path:
        return self._folder / f"shard-{len(self._index['shards']):05d}.{name}.npy"

    def _file(self, name: str) -> io.FileIO:
        """Returns a file of the open shard, after what is counted of it; what else is in it is discarded."""
        if name not in self._files:
            self._path(name).touch()
            # Without a buffer: a failed write is not tried again when the file is closed.
            file = self._files[name] = io.FileIO(self._path(name), "r+")
            file.truncate(_HEADER_BYTES + self._counts[name] * self._dtypes[name].itemsize)
            file.seek(0, os.SEEK_END)
        return self._files[name]

    def _write(self, name: str, content: memoryview) -> None:
        with named_errors(self._path(name)):
            while content:
                content = content[self._file(name).write(content) :]

    def _finish_shard(self) -> None:
        written = {}
        for name, dtype in self._dtypes.items():
            path, header = self._path(name), io.BytesIO()
            about = {"descr": dtype.str, "fortran_order": False, "shape": (self._counts[name],)}
            np.lib.format.write_array_header_1_0(header, about)
            assert header.tell() == _HEADER_BYTES
            self._file(name).seek(0)
            self._write(name, header.getbuffer())
            self._file(name).close()
            written[name] = {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}
            self._index[name] += self._counts[name]
        self._index["shards"].append({**self._counts, "files": written})
        self._counts = dict.fromkeys(ARRAYS, 0)
        self._files = {}
