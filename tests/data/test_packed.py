"""Compressed files are what the command line tools say they are; what these refuse is damaged."""

import gzip
import lzma
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from anybatch.data.packed import DAMAGE, open_packed

FIRST, SECOND = (b"".join(b'{"text": "%s %d"}\n' % (word, n) for n in range(60)) for word in (b"first", b"second"))
SKIPPED = (0x184D2A50).to_bytes(4, "little") + (7).to_bytes(4, "little") + b"skipped"


def zstd(content: bytes) -> bytes:
    import pyarrow

    return bytes(pyarrow.compress(content, codec="zstd", asbytes=True))


PACKED: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstd}
TOOLS = {".gz": "gzip", ".xz": "xz", ".zst": "zstd"}


def ours(path: Path, offset: int = 0) -> bytes | None:
    """What is read of a file; None: it is damaged."""
    try:
        with open_packed(path, path.suffix, offset) as stream:
            return b"".join(iter(lambda: stream.read(1000), b""))
    except (*DAMAGE, OSError):
        return None


def theirs(path: Path) -> bytes | None:
    found = subprocess.run([TOOLS[path.suffix], "-dc", path], capture_output=True, check=False, timeout=20)
    return found.stdout if found.returncode == 0 else None


def needs_tool(packing: str) -> None:
    if packing == ".zst":
        pytest.importorskip("pyarrow")
    if shutil.which(TOOLS[packing]) is None:
        pytest.skip(f"{TOOLS[packing]} is not installed")


@pytest.mark.parametrize("packing", PACKED)
def test_several_streams_and_what_stands_between_them(packing: str, tmp_path: Path) -> None:
    needs_tool(packing)
    path = tmp_path / f"a{packing}"
    first, second = PACKED[packing](FIRST), PACKED[packing](SECOND)
    damaged = bytearray(second)
    damaged[len(second) // 2] ^= 255
    whole = {
        "two streams": first + second,
        "zeros at the end": first + second + bytes(8),
        "zeros between": first + bytes(8) + second + bytes(4),
        "zeros that are no padding": first + bytes(3) + second,
        "a damaged second stream": first + bytes(damaged),
        "a second stream cut short": first + second[:-5],
        "a beginning alone": first + second[:5],
        "other bytes behind": first + b"these bytes are no stream\n",
        "zeros, then other bytes": first + bytes(4) + b"these bytes are no stream\n",
        "a skipped frame": SKIPPED + first + SKIPPED + second + SKIPPED,
        "no stream": b"these bytes are no stream\n",
    }
    padded = {".gz": {"zeros at the end"}, ".xz": {"zeros at the end", "zeros between"}, ".zst": {"a skipped frame"}}
    readable = {"two streams", *padded[packing]}
    for name, content in whole.items():
        path.write_bytes(content)
        expected = FIRST + SECOND if name in readable else None
        assert theirs(path) == expected or packing == ".gz", name
        # gzip leaves out, with a warning, what follows zeros; Python reads a member behind them.
        if packing == ".gz" and name in ("zeros between", "zeros that are no padding"):
            expected = FIRST + SECOND
        assert ours(path) == expected, name


@pytest.mark.parametrize("packing", PACKED)
def test_a_mutated_file_gives_what_the_tool_gives_or_is_damaged(packing: str, tmp_path: Path) -> None:
    needs_tool(packing)
    path = tmp_path / f"a{packing}"
    draw = random.Random(packing)
    parts = [PACKED[packing](FIRST), PACKED[packing](SECOND)]
    read = 0
    for _ in range(60):
        content = bytearray(b"".join(draw.choices([*parts, bytes(4), bytes(1)], (4, 4, 2, 1), k=draw.randint(1, 4))))
        if draw.random() < 0.6:
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        if draw.random() < 0.2:
            del content[draw.randrange(len(content)) :]
        path.write_bytes(content)
        found = ours(path)
        if found is not None:
            read += 1
            expected = subprocess.run([TOOLS[packing], "-dc", path], capture_output=True, check=False, timeout=20)
            # gzip warns, and goes on, where Python reads more.
            assert found == expected.stdout or (packing == ".gz" and found.startswith(expected.stdout))
    assert 5 < read < 55


@pytest.mark.parametrize("packing", PACKED)
def test_reading_on_from_any_byte(packing: str, tmp_path: Path) -> None:
    needs_tool(packing)
    path = tmp_path / f"a{packing}"
    path.write_bytes(PACKED[packing](FIRST) + PACKED[packing](SECOND))
    for offset in (0, 1, len(FIRST), len(FIRST) + 1, len(FIRST + SECOND), len(FIRST + SECOND) + 5):
        assert ours(path, offset) == (FIRST + SECOND)[offset:]


def test_an_old_lzma_file_is_one_stream(tmp_path: Path) -> None:
    path = tmp_path / "a.xz"
    old = lzma.compress(FIRST, lzma.FORMAT_ALONE)
    path.write_bytes(old)
    assert ours(path) == FIRST
    for behind in (bytes(4), lzma.compress(SECOND), b"more"):
        path.write_bytes(old + behind)
        assert ours(path) is None
