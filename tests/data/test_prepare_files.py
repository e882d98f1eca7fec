"""Files to shards: the same for any number of processes, gone on with after a kill, filtered as asked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from anybatch.data import raw, shard_writer
from anybatch.data.prepare import prepare, prepare_files
from anybatch.data.shards import open_shards
from anybatch.data.text import LengthFilter
from anybatch.errors import InputError

MadeUp = Callable[[int], list[str]]


@pytest.fixture
def documents(made_up: MadeUp) -> list[str]:
    return made_up(400)


@pytest.fixture
def files(tmp_path: Path, documents: list[str], monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Four hundred documents over two files, read in some sixty portions."""
    monkeypatch.setattr(raw, "PORTION_BYTES", 4096)
    paths = [tmp_path / "a.jsonl", tmp_path / "b.txt"]
    paths[0].write_text("".join(json.dumps({"text": each}) + "\n" for each in documents[:250]))
    paths[1].write_text("\n\n\n".join(documents[250:]))
    return paths


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


OPTIONS: dict[str, Any] = {"vocabulary_size": 400, "held_out": 0.1, "max_shard_tokens": 5000}


def test_any_number_of_processes_writes_the_same_bytes(tmp_path: Path, files: list[Path], documents: list[str]) -> None:
    prepare(lambda: documents, tmp_path / "memory", **OPTIONS)
    expected = contents(tmp_path / "memory")
    assert len(open_shards(tmp_path / "memory" / "train").parts) > 4
    for processes in (1, 3):
        out = tmp_path / str(processes)
        summary = prepare_files(files, out, processes=processes, **OPTIONS)
        assert contents(out) == expected
        assert (summary["train"]["documents"], summary["held_out"]["documents"]) == (360, 40)
    for processes in (0, 5000):
        with pytest.raises(InputError, match=f"processes = {processes}: must be at least 1 and at most 1024"):
            prepare_files(files, tmp_path / "none", processes=processes)
    with pytest.raises(InputError, match="/: cannot be made; name a folder in it"):
        prepare_files(files, Path("/"))


def test_many_documents_are_chosen_by_their_hash(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anybatch.data.held_out._FEW", 100)
    parts = []
    for name, paths in (("all", files), ("first", files[:1])):
        prepare_files(paths, tmp_path / name, processes=1, **OPTIONS)
        parts.append(open_shards(tmp_path / name / "held_out"))
    assert 20 < parts[0].num_documents < 60
    assert 0 < parts[1].num_documents < parts[0].num_documents


class Killed(BaseException):
    """As Ctrl-C and SIGTERM arrive."""


@pytest.mark.parametrize(
    ("stop", "drop_duplicates"), [(("tokens", 3), False), (("tokens", 40), True), (("vocabulary", 20), False)]
)
def test_what_was_killed_is_gone_on_with(
    tmp_path: Path,
    files: list[Path],
    tokenizer: Tokenizer,
    stop: tuple[str, int],
    drop_duplicates: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("anybatch.data.staging._SAVED_EVERY_S", 0)
    options = {**OPTIONS, "drop_duplicates": drop_duplicates, "processes": 1}
    prepare_files(files, tmp_path / "whole", **options)
    told: list[str] = []

    def kill(name: str, *_: int) -> None:
        told.append(name)
        if told.count(stop[0]) == stop[1]:
            raise Killed

    with pytest.raises(Killed):
        prepare_files(files, tmp_path / "out", progress=kill, **options)
    assert not (tmp_path / "out").exists()
    num_portions = 1 + len(list(raw.read_portions([str(path) for path in files])))
    again: list[str] = []
    prepare_files(files, tmp_path / "out", progress=lambda name, *_: again.append(name), **options)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert again.count("tokens") <= num_portions - (stop[1] - 1 if stop[0] == "tokens" else 0)
    assert ("vocabulary" in again) == (stop[0] == "vocabulary")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "b.txt", "out", "whole"]


def test_other_work_under_the_same_name_begins_anew(tmp_path: Path, files: list[Path]) -> None:
    def kill(name: str, *_: int) -> None:
        if name == "tokens":
            raise Killed

    with pytest.raises(Killed):
        prepare_files(files, tmp_path / "out", progress=kill, processes=1, **OPTIONS)
    (left,) = tmp_path.glob(".out.partial")
    (left / "train" / "shard-00000.tokens.npy").write_bytes(b"half")
    files[1].write_text(files[1].read_text() + " More.")
    prepare_files(files, tmp_path / "out", processes=1, **OPTIONS)
    prepare_files(files, tmp_path / "other", processes=1, **OPTIONS)
    assert contents(tmp_path / "out") == contents(tmp_path / "other")


def test_a_folder_in_the_making_is_left_alone(tmp_path: Path, files: list[Path]) -> None:
    def begin_another(name: str, *_: int) -> None:
        with pytest.raises(InputError, match="out: another process is making it"):
            prepare_files(files, tmp_path / "out", processes=1, **OPTIONS)
        raise Killed

    with pytest.raises(Killed):
        prepare_files(files, tmp_path / "out", progress=begin_another, processes=1, **OPTIONS)


def test_duplicates_and_lengths(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    texts = [f"This is document number {number}." for number in range(30)]
    texts += [texts[3], texts[4].replace(" ", "\n"), "Short.", "Long. " * 20, "", "  "]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    options = {"vocabulary_size": 256, "drop_duplicates": True, "lengths": LengthFilter(10, 100)}
    summary = prepare_files([path], tmp_path / "out", processes=1, **options)
    assert summary["left_out"] == {"by_length": 4, "duplicates": 2}
    assert summary["train"]["documents"] + summary["held_out"]["documents"] == 30
    with pytest.raises(InputError, match=r'a.jsonl:35: "text" is blank'):
        prepare_files([path], tmp_path / "other", processes=1, vocabulary_size=256)


def test_lengths_that_leave_nothing_are_named(tmp_path: Path, files: list[Path]) -> None:
    with pytest.raises(InputError, match="at least 100 and at most 50 characters: there are none"):
        LengthFilter(100, 50)
    with pytest.raises(InputError, match=r"400 of 400 documents are left out for their length.*--max-characters"):
        prepare_files(files, tmp_path / "out", lengths=LengthFilter(0, 2), **OPTIONS)


def test_a_worker_s_complaint_is_the_file_s(tmp_path: Path, files: list[Path]) -> None:
    files[0].write_text(files[0].read_text() + "{\n")
    with pytest.raises(InputError, match=r"a.jsonl:251: not valid JSON"):
        prepare_files(files, tmp_path / "out", processes=2, **OPTIONS)
    files[0].write_text("\n" * 9)
    with pytest.raises(InputError, match=r"a.jsonl: empty: there is no text in it"):
        prepare_files(files, tmp_path / "out", processes=2, **OPTIONS)
    assert not list(tmp_path.glob(".*")) + list(tmp_path.glob("out"))


def test_hard_text_survives(tmp_path: Path) -> None:
    """Right to left, without spaces, control characters, one word without an end: each is a document of tokens."""
    path = tmp_path / "a.jsonl"
    texts = [
        "שלום עולם. זה משפט." * 3,
        "日本語の文章です。二番目の文。" * 50,
        "a\u0000b \u202e rtl",
        "x" * 300_000,
        "1 2",
        "2 3",
    ]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    summary = prepare_files([path], tmp_path / "out", processes=1, vocabulary_size=256)
    assert summary["train"]["documents"] + summary["held_out"]["documents"] == len(texts)
    for part in ("train", "held_out"):
        open_shards(tmp_path / "out" / part).verify()


def test_memory_does_not_grow_with_the_shard(tmp_path: Path, tokenizer: Tokenizer) -> None:
    writer = shard_writer.ShardWriter(tmp_path, tokenizer)
    sizes = []
    for _ in range(3):
        writer.add_documents(np.full(1000, 7), np.full(10, 100), np.array([10]))
        sizes.append((tmp_path / "shard-00000.tokens.npy").stat().st_size)
    assert [size - 128 for size in sizes] == [2000, 4000, 6000], "what is given to the writer is on the disk at once"
    writer.close()
