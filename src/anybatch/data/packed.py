"""Compressed files as streams of their content, each by the rule of its format for what follows the first stream.

    .gz     any number of members, then zeros (RFC 1952, section 2.2; padding as gzip does)
    .xz     any number of streams, with zeros between and after them, four at a time (the .xz format, section 2.2)
    .zst    any number of frames and skippable frames (RFC 8878, section 3)

Anything else after a stream is damage, as for `xz -t` and `zstd -t`.
"""

import gzip
import io
import lzma
import zlib
from pathlib import Path
from typing import Any

from anybatch.errors import InputError

PACKINGS = (".gz", ".xz", ".zst")
# Errors raised for damaged content; pyarrow raises OSError without a number.
DAMAGE = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)

_MAGIC = b"\xfd7zXZ\x00"
_BLOCK_BYTES = 1 << 16
# A header may ask for 4 GiB, far above what any of xz's presets writes.
_MOST_MEMORY = 1 << 30


def open_packed(path: Path, packing: str, offset: int = 0) -> Any:
    """Opens the content of `path` from byte `offset` on; without a packing, the file's own bytes."""
    if not packing:
        file = open(path, "rb")  # noqa: SIM115  (the caller closes it)
        file.seek(offset)
        return file
    stream: Any
    if packing == ".gz":
        stream = gzip.GzipFile(path, "rb")
    elif packing == ".xz":
        stream = io.BufferedReader(_Xz(path), _BLOCK_BYTES)
    else:
        stream = pyarrow(path).CompressedInputStream(str(path), "zstd")
    while offset > 0 and (skipped := len(stream.read(min(offset, 1 << 20)))):
        offset -= skipped
    return stream


class _Xz(io.RawIOBase):
    """A stream of .xz content. Python's lzma module silently skips what it cannot read after the first stream."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb")  # noqa: SIM115  (closed with the stream)
        # An old .lzma file may have this name; nothing may follow it.
        self._alone = self._file.read(len(_MAGIC)) != _MAGIC
        self._file.seek(0)
        self._decoder = lzma.LZMADecompressor(lzma.FORMAT_AUTO, _MOST_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            given = b""
            if self._decoder.eof:
                if not (given := self._next()):
                    return 0
                self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, _MOST_MEMORY)
            elif self._decoder.needs_input and not (given := self._file.read(_BLOCK_BYTES)):
                raise EOFError("it ends within a stream")
            if found := self._decoder.decompress(given, len(buffer)):
                buffer[: len(found)] = found
                return len(found)

    def _next(self) -> bytes:
        """Returns the beginning of the next stream, b"" at the end of the file."""
        rest, zeros = self._decoder.unused_data, 0
        while True:
            found = rest.lstrip(b"\0")
            zeros += len(rest) - len(found)
            rest = found or self._file.read(_BLOCK_BYTES)
            if found or not rest:
                break
        if zeros % 4 or (self._alone and (zeros or rest)):
            raise lzma.LZMAError(f"{zeros} zeros and {'more' if rest else 'nothing'} behind a stream")
        return rest

    def close(self) -> None:
        self._file.close()
        super().close()


def pyarrow(name: object) -> Any:
    """Returns the library; InputError if it is not installed."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError:
        raise InputError(f"{name}: reading it needs pyarrow: pip install 'anybatch[parquet]'") from None
    return pyarrow
