import gzip
import json
import lzma
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anybatch.data.text import read_documents
from anybatch.errors import InputError


def put(path: Path, content: bytes) -> Path:
    """Writes `content`, packed as the name says."""
    packed = {".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix.lower(), bytes)
    path.write_bytes(packed(content))
    return path


@pytest.mark.parametrize("packing", ["", ".gz", ".xz"])
def test_txt(tmp_path: Path, packing: str) -> None:
    content = "\ufeff\n\nOne.\nStill one.\n\nIts second paragraph.\r\n\r\n \t\r\nTwo – ünïcode.\n\n\n\n\n\nThree."
    path = put(tmp_path / f"a.txt{packing}", content.encode())
    documents = list(read_documents([path]))
    assert documents == [
        "One.\nStill one.\n\nIts second paragraph.",
        "Two – ünïcode.",
        "Three.",
    ]


@pytest.mark.parametrize("block", [7, 64, 1 << 21])
@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_lines_end_in_any_way(end: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Python's text files read them; other separators, such as U+2028 and U+0085, are white space in a line."""
    monkeypatch.setattr("anybatch.data.raw.PORTION_BYTES", block)
    lines = [
        "First.",
        "Still \u2028 \x85 \v first.",
        "",
        "Its second paragraph.",
        " ",
        "\t",
        "Second.",
        "",
        "\u2028",
        "",
        "Third.",
    ]
    content = end.join([*lines, ""])
    path = put(tmp_path / "a.txt", content.encode())
    assert path.read_text(encoding="utf-8").split("\n")[:-1] == lines
    assert list(read_documents([path])) == [
        "First.\nStill \u2028 \x85 \v first.\n\nIts second paragraph.",
        "Second.",
        "Third.",
    ]
    path.write_bytes(content.encode() + b"\xff")
    with pytest.raises(InputError, match=r"a.txt:12: not UTF-8 text \(byte 0 of the line\)"):
        list(read_documents([path]))


@pytest.mark.parametrize("packing", ["", ".gz", ".xz"])
def test_jsonl(tmp_path: Path, packing: str) -> None:
    content = '{"text": "One.\\n\\nMore.", "title": "x"}\n\n{"text": "\\ud83d\\ude00 zwei"}'
    path = put(tmp_path / f"a.jsonl{packing}", content.encode())
    assert list(read_documents([path])) == ["One.\n\nMore.", "😀 zwei"]


@pytest.mark.parametrize("name", ["A.TXT", "a.jsonl.txt", "a.Txt.GZ", "a.jsonl.txt.xz"])
def test_the_last_suffix_decides_in_capitals_or_not(tmp_path: Path, name: str) -> None:
    path = put(tmp_path / name, b"{one}")
    assert list(read_documents([path])) == ["{one}"]


@pytest.mark.parametrize("name", ["A.JSONL", "A.JSONL.GZ", "a.txt.jsonl", "a.jsonl.XZ"])
def test_json_lines_in_capitals(tmp_path: Path, name: str) -> None:
    path = put(tmp_path / name, b'{"text": "one"}')
    assert list(read_documents([path])) == ["one"]


GOOD = b'{"text": "fine"}\n'
TRUNCATED = {
    ".gz": gzip.compress(b"".join(b'{"text": "%d"}\n' % number for number in range(9999)))[:-9],
    ".xz": lzma.compress(b"".join(b'{"text": "%d"}\n' % number for number in range(9999)))[:-40],
}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "a.txt: empty"),
        ("a.txt", b" \n\n\t\n", "a.txt: empty"),
        ("a.jsonl", b"\n", "a.jsonl: empty"),
        ("a.txt", b"fine\n\x00\x01\x02\n", "a.txt:2: not text: byte 0 of the line is NUL"),
        ("a.txt", b"fine\nfine\n\xff\xfe\n", r"a.txt:3: not UTF-8 text \(byte 0 of the line\)"),
        ("a.txt", "früh".encode("latin-1"), "a.txt:1: not UTF-8"),
        ("a.jsonl", GOOD * 16 + b'{"text": "x"\n', "a.jsonl:17: not valid JSON: Expecting ',' delimiter"),
        ("a.jsonl", b'{"a": ' + b"[" * 100_000 + b"\n", "a.jsonl:1: not valid JSON"),
        ("a.jsonl", GOOD + b'["text"]\n', 'a.jsonl:2: must be a JSON object with a "text", not a list'),
        ("a.jsonl", GOOD + b'{"txt": "x"}\n', 'a.jsonl:2: the object has no "text"'),
        ("a.jsonl", GOOD + b'{"text": 3}\n', 'a.jsonl:2: "text" must be a string, not a number'),
        ("a.jsonl", GOOD + b'{"text": null}\n', 'a.jsonl:2: "text" must be a string, not null'),
        ("a.jsonl", GOOD + b'{"text": " \\n "}\n', 'a.jsonl:2: "text" is blank'),
        ("a.jsonl", GOOD + b'{"text": "\\uD800"}\n', 'a.jsonl:2: "text" holds half of a surrogate pair'),
        ("a.csv", b"text\n", "a.csv: unknown kind of file '.csv'"),
        ("a.csv.gz", b"text\n", r"a.csv.gz: unknown kind of file '.csv'; must end in .txt or .jsonl"),
        ("a", b"text\n", "a: unknown kind of file"),
    ],
)
def test_what_is_wrong_with_a_file_is_named_in_one_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        list(read_documents([path]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("packing", [".gz", ".xz"])
def test_damaged_compression_is_named_with_the_line(tmp_path: Path, packing: str) -> None:
    path = tmp_path / f"a.jsonl{packing}"
    path.write_bytes(TRUNCATED[packing])
    with pytest.raises(InputError, match=rf"a.jsonl{packing}:\d+: damaged {packing} file"):
        list(read_documents([path]))
    path.write_bytes(b"not packed at all, whatever the name says")
    with pytest.raises(InputError, match=f"a.jsonl{packing}:1: damaged"):
        list(read_documents([path]))


def test_every_path_is_checked_before_anything_is_read(tmp_path: Path) -> None:
    good = put(tmp_path / "a.txt", b"fine")
    (tmp_path / "empty").mkdir()
    for bad, message in ((tmp_path / "b.txt", "no such file"), (tmp_path / "empty", "holds no .txt, .jsonl, .parquet")):
        with pytest.raises(InputError, match=message):
            next(read_documents([good, bad]))
    with pytest.raises(InputError, match="no text files are given"):
        next(read_documents([]))


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=5))
def test_json_lines_come_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert list(read_documents([path])) == texts
