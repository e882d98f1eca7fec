"""What names lead to, and that reading can go on behind any portion."""

import gzip
import json
import lzma
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from anybatch.data import raw
from anybatch.data.raw import Place, find_sources, read_portions
from anybatch.data.text import parse, read_documents
from anybatch.errors import InputError

pyarrow = pytest.importorskip("pyarrow")


def lines(count: int) -> bytes:
    return b"".join(json.dumps({"text": f"Document {number}.\n\nIts end."}).encode() + b"\n" for number in range(count))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """One file of every kind, each of 700 documents."""
    import pyarrow.parquet

    folder = tmp_path / "corpus"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.jsonl").write_bytes(lines(700))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines(700)))
    (folder / "c.JSONL.XZ").write_bytes(lzma.compress(lines(700)))
    with pyarrow.CompressedOutputStream(str(folder / "d.jsonl.zst"), "zstd") as stream:
        stream.write(lines(700))
    (folder / "e.txt").write_text("\n\n\n".join(f"Document {number}.\n\nIts end." for number in range(700)))
    texts = {"text": [f"Document {number}.\n\nIts end." for number in range(700)], "n": list(range(700))}
    pyarrow.parquet.write_table(pyarrow.table(texts), folder / "sub" / "f.parquet", row_group_size=100)
    (folder / "ignored.csv").write_text("x")
    return folder


def test_all_kinds_of_file_give_the_same_documents(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "PORTION_BYTES", 1000)
    sources = find_sources([corpus])
    assert [Path(name).name for name in sources] == [
        "a.jsonl", "b.jsonl.gz", "c.JSONL.XZ", "d.jsonl.zst", "e.txt", "f.parquet"
    ]  # fmt: skip
    texts = list(read_documents(sources))
    assert texts == [f"Document {number}.\n\nIts end." for number in range(700)] * 6


def test_reading_on_gives_the_documents_that_would_have_come(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "PORTION_BYTES", 3000)
    sources = find_sources([corpus])
    portions = list(read_portions(sources))
    assert len(portions) > 40
    for number in range(0, len(portions), 7):
        rest = [document for portion in read_portions(sources, portions[number].end) for document in parse(portion)]
        assert rest == [document for portion in portions[number + 1 :] for document in parse(portion)]


def test_names_are_folders_globs_and_lists(corpus: Path, tmp_path: Path) -> None:
    listing = tmp_path / "list"
    listing.write_text(f"{corpus / 'e.txt'}\n\n{corpus / 'a.*'}\n{corpus / 'e.txt'}\n")
    assert find_sources([f"@{listing}"]) == [str(corpus / "e.txt"), str(corpus / "a.jsonl")]
    assert find_sources([str(corpus / "**" / "*.parquet")]) == [str(corpus / "sub" / "f.parquet")]
    assert find_sources(["hf:some/name,config@test"]) == ["hf:some/name,config@test"]
    for name, message in (
        (str(corpus / "*.md"), r"\*.md: no file matches"),
        (str(corpus / "*.csv"), "unknown kind of file '.csv'"),
        ("@nowhere", "nowhere: no such file; @LIST"),
        ("nowhere.txt", "nowhere.txt: no such file"),
    ):
        with pytest.raises(InputError, match=message):
            find_sources([name])


def test_a_file_of_several_names_is_read_once(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link.txt").symlink_to(corpus / "e.txt")
    monkeypatch.chdir(tmp_path)
    names = ["corpus/e.txt", "./corpus/e.txt", "corpus/sub/../e.txt", str(corpus / "e.txt"), "link.txt", "corpus/*.txt"]
    assert find_sources(names) == ["corpus/e.txt"]


def test_names_that_lead_nowhere_are_one_clear_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "self.lst").write_text(f"@{tmp_path}/self.lst\n")
    (tmp_path / "latin.lst").write_bytes("Übung.txt".encode("latin-1"))
    for name, message in (
        ("", "an empty name is given"),
        (str(tmp_path / "pipe.txt"), "pipe.txt: is no regular file"),
        (f"@{tmp_path}/self.lst", "self.lst: lists itself"),
        (f"@{tmp_path}/latin.lst", r"latin.lst: not UTF-8 text \(byte 0\)"),
    ):
        with pytest.raises(InputError, match=message):
            find_sources([name])


def test_a_document_without_an_end_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "PORTION_BYTES", 1 << 10)
    monkeypatch.setattr(raw, "LARGEST_DOCUMENT_BYTES", 1 << 13)
    path = tmp_path / "a.txt"
    for content in ("One more sentence of it. " * 3000, "ünïcödé" * 6000, "日本語" * 6000, "line\n" * 9000):
        path.write_text(content)
        documents = list(read_documents([path]))
        assert len(documents) > 4
        assert max(len(document.encode()) for document in documents) < 1 << 14
        assert "".join("".join(document.split()) for document in documents) == "".join(content.split())


def test_a_line_of_json_that_is_too_long_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "PORTION_BYTES", 1 << 10)
    monkeypatch.setattr(raw, "LARGEST_LINE_BYTES", 1 << 20)
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(3) + b'{"text": "' + b"x" * (3 << 20) + b'"}\n')
    with pytest.raises(InputError, match=r"a.jsonl:4: a line of more than 1 MiB: must be at most that"):
        list(read_documents([path]))


def test_wrong_parquet_files_are_named(tmp_path: Path) -> None:
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    for table, message in (
        ({"txt": ["a"]}, 'a.parquet: has no column "text", only txt'),
        ({"text": [1]}, 'a.parquet:1: "text" must be a string, not a number'),
        ({"text": ["a", None]}, 'a.parquet:2: "text" must be a string, not null'),
        ({"text": [b"a", b"b"]}, 'a.parquet:1: "text" must be a string, not of type bytes'),
        ({"text": [["a"]]}, 'a.parquet:1: "text" must be a string, not a list'),
        ({"text": ["a", "b", " "]}, 'a.parquet:3: "text" is blank; --min-characters 1'),
    ):
        pyarrow.parquet.write_table(pyarrow.table(table), path)
        with pytest.raises(InputError, match=message):
            list(read_documents([path]))
    twice = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, ["text", "text"])
    pyarrow.parquet.write_table(twice, path)
    with pytest.raises(InputError, match=r'a.parquet: has 2 columns "text"; must be one'):
        list(read_documents([path]))
    broken = pyarrow.array([b"fine", b"\xff\xfe"], pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": broken}), path)
    with pytest.raises(InputError, match=r'a.parquet: bytes that are not UTF-8 in column "text"'):
        list(read_documents([path]))
    path.write_bytes(b"PAR1 rubbish")
    with pytest.raises(InputError, match=r"a.parquet: no readable .parquet file"):
        list(read_documents([path]))


def test_damaged_zstandard_is_named(corpus: Path) -> None:
    path = corpus / "d.jsonl.zst"
    for content in (b"not packed", path.read_bytes()[:-20]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"d.jsonl.zst:\d+: (damaged .zst file|not valid JSON)"):
            list(read_documents([path]))


class Rows(list[dict[str, Any]]):
    """A streamed data set, as far as reading needs it."""

    def skip(self, count: int) -> "Rows":
        return Rows(self[count:])


def test_the_hub_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(name: str, config: str | None, *, split: str, streaming: bool) -> Rows:
        asked.append((name, config, split, streaming))
        if name == "gone":
            raise ConnectionError("no\nnetwork")
        return Rows({"text" if name == "good" else "content": f"Text {number}."} for number in range(600))

    module = ModuleType("datasets")
    monkeypatch.setattr(module, "load_dataset", load, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", module)
    assert list(read_documents(["hf:good"])) == [f"Text {number}." for number in range(600)]
    rest = [portion.content for portion in read_portions(["hf:good,part@dev"], Place(0, 590, 591))]
    assert rest == [[f"Text {number}." for number in range(590, 600)]]
    assert asked == [("good", None, "train", True), ("good", "part", "dev", True)]
    for name, message in (
        ("hf:gone", "hf:gone: no readable data set: no network"),
        ("hf:other", 'no column "text", only'),
    ):
        with pytest.raises(InputError, match=message):
            list(read_documents([name]))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="the extra hub is needed"):
        list(read_documents(["hf:good"]))


def test_without_pyarrow_it_is_asked_for(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for name in ("sub/f.parquet", "d.jsonl.zst"):
        with pytest.raises(InputError, match="reading it needs pyarrow"):
            list(read_documents([corpus / name]))
