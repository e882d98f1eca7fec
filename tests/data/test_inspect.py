from pathlib import Path

import pytest
from support.shard_documents import documents

from anybatch.data.inspect import summary
from anybatch.data.shard_writer import ShardWriter
from anybatch.data.shards import open_shards
from anybatch.data.vocabulary import load
from anybatch.errors import InputError


def test_what_is_there_is_counted_and_shown(folder: Path) -> None:
    found = summary(folder, num_examples=2)
    assert (found["train"]["documents"], found["held_out"]["documents"]) == (64, 16)
    assert found["vocabulary_size"] == 400
    shards = open_shards(folder / "train")
    lengths = [len(sentence) for document in documents(shards) for sentence in document]
    assert (found["train"]["sentences"], found["train"]["tokens"]) == (len(lengths), sum(lengths))
    assert found["train"]["longest_sentence"] == max(lengths)
    assert 0 <= found["train"]["unknown_share"] < 0.01
    totals = [sum(map(len, document)) for document in documents(shards)]
    assert sum(found["train"]["document_lengths"].values()) == 64
    assert found["train"]["document_lengths"][64] == sum(64 <= total < 128 for total in totals)
    assert len(found["examples"]) == 2
    for example in found["examples"]:
        assert example.startswith("[CLS]")
        assert example.endswith("[SEP]")
        assert "[MASK→" in example
        assert "[PAD]" not in example


def test_a_folder_that_is_none_is_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        summary(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"tokenizer.json: no such file"):
        summary(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    with pytest.raises(InputError, match="train: holds no token shards"):
        summary(tmp_path)


def test_shards_without_a_document_are_named(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "train").mkdir()
    ShardWriter(tmp_path / "train", load(tmp_path / "tokenizer.json")).close()
    with pytest.raises(InputError, match="train: holds no document"):
        summary(tmp_path)
