import json
import math
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.shard_documents import documents as in_shards
from tokenizers import Tokenizer

from anybatch.data import vocabulary
from anybatch.data.causal import CausalSource
from anybatch.data.prepare import prepare
from anybatch.data.shard_writer import ShardWriter
from anybatch.data.shards import Shards, open_shards
from anybatch.data.vocabulary import load
from anybatch.errors import InputError

Write = Callable[..., Shards]
DOCUMENT = st.lists(st.lists(st.integers(0, 399), max_size=9), max_size=6)


@given(documents=st.lists(DOCUMENT, max_size=12), max_shard_tokens=st.integers(1, 60))
@settings(deadline=None)
def test_documents_come_back(write_shards: Write, documents: list[list[list[int]]], max_shard_tokens: int) -> None:
    expected = [[sentence for sentence in document if sentence] for document in documents]
    expected = [document for document in expected if document]
    shards = write_shards(documents, max_shard_tokens)
    found = [[sentence.tolist() for sentence in document] for document in in_shards(shards)]
    assert found == expected
    assert shards.num_sentences == sum(map(len, expected))
    assert shards.num_tokens == sum(len(sentence) for document in expected for sentence in document)
    for part in shards.parts:
        assert len(part.tokens) <= max_shard_tokens or len(part.document_ends) == 1
    shards.verify()


def test_a_document_stays_in_one_shard(write_shards: Write) -> None:
    shards = write_shards([[[5] * 4], [[6] * 4], [[7] * 30], [[8] * 3]], 8)
    assert [part.tokens.tolist() for part in shards.parts] == [[5] * 4 + [6] * 4, [7] * 30, [8] * 3]
    assert all(part.tokens.dtype == np.uint16 for part in shards.parts)


def test_a_large_vocabulary_gets_wider_tokens(tmp_path: Path) -> None:
    words = [*vocabulary.SPECIAL_TOKENS, *(f"w{number}" for number in range(70_000))]
    tokenizer = vocabulary.from_words({word: number for number, word in enumerate(words)})
    writer = ShardWriter(tmp_path, tokenizer)
    writer.add_documents(np.array([70_004, 5]), np.array([2]), np.array([1]))
    writer.close()
    assert in_shards(open_shards(tmp_path))[0][0].tolist() == [70_004, 5]


def test_another_vocabulary_is_refused(write_shards: Write, tokenizer: Tokenizer) -> None:
    shards = write_shards([[[5]]])
    shards.check_vocabulary(tokenizer)
    other = vocabulary.train(lambda: ["some other text"], 256)
    with pytest.raises(
        InputError, match=r"the vocabulary does not match the shards: .* 400 tokens .* this one has \d+"
    ):
        shards.check_vocabulary(other)


def change_index(folder: Path, **values: object) -> None:
    index = json.loads((folder / "index.json").read_text())
    index.update(values)
    (folder / "index.json").write_text(json.dumps(index))


def rename_first_file(folder: Path, name: object) -> None:
    index = json.loads((folder / "index.json").read_text())
    index["shards"][0]["files"]["tokens"]["name"] = name
    (folder / "index.json").write_text(json.dumps(index))


def cut(path: Path, size: int) -> None:
    os.truncate(path, size)


def replace(path: Path) -> None:
    path.write_bytes(b"x" * path.stat().st_size)


def put(path: Path, place: int, values: bytes) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:place] + values + content[place + len(values) :])


TOKENS = "shard-00000.tokens.npy"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "index.json").unlink(), "holds no token shards"),
        (lambda folder: (folder / "index.json").write_text("{\n3"), "index.json:2: not valid JSON"),
        (lambda folder: (folder / "index.json").write_text("[]"), "not an index of token shards"),
        (lambda folder: change_index(folder, format="other"), "not an index of token shards"),
        (lambda folder: change_index(folder, version=9), "version 9 of the format; this release reads version 1"),
        (lambda folder: change_index(folder, shards=[{}]), "index.json: damaged"),
        (lambda folder: change_index(folder, shards=[]), "index.json: damaged"),
        (lambda folder: change_index(folder, shards=None), "index.json: damaged"),
        (lambda folder: change_index(folder, vocabulary="x"), "index.json: damaged"),
        (lambda folder: change_index(folder, vocabulary={"size": "400", "fingerprint": "x"}), "index.json: damaged"),
        (lambda folder: change_index(folder, tokens=4), "index.json: damaged"),
        (lambda folder: rename_first_file(folder, 3), "3: no such file"),
        (lambda folder: cut(folder / "index.json", 0), "index.json:1: not valid JSON"),
        (lambda folder: (folder / TOKENS).unlink(), f"{TOKENS}: no such file, but index.json lists it"),
        (lambda folder: cut(folder / TOKENS, 131), f"{TOKENS}: truncated or changed: 131 bytes, not 134; run"),
        (lambda folder: replace(folder / TOKENS), f"{TOKENS}: not a NumPy array"),
        (lambda folder: put(folder / TOKENS, 8, b"\xff\xff"), f"{TOKENS}: not a NumPy array"),
        (lambda folder: put(folder / TOKENS, 10, b"{{"), f"{TOKENS}: not a NumPy array"),
        (lambda folder: put(folder / TOKENS, 0, b"PK\3\4"), f"{TOKENS}: not a NumPy array"),
    ],
)
def test_damage_is_named(write_shards: Write, damage: Callable[[Path], object], message: str) -> None:
    folder = write_shards([[[5, 6], [7]]]).path
    damage(folder)
    with pytest.raises(InputError, match=message) as caught:
        open_shards(folder)
    assert "\n" not in str(caught.value)


def test_a_missing_count_is_named(write_shards: Write) -> None:
    folder = write_shards([[[5, 6], [7]]]).path
    index = json.loads((folder / "index.json").read_text())
    del index["tokens"]
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="damaged: has no 'tokens'"):
        open_shards(folder)


def overwrite(path: Path, values: list[int]) -> None:
    """Puts `values` in place of the array's last entries, the header and the size as they were."""
    array = np.load(path)
    array[-len(values) :] = values
    np.save(path, array)


def test_a_changed_bit_is_found_when_small_shards_are_opened(write_shards: Write) -> None:
    folder = write_shards([[[5, 6], [7]]]).path
    overwrite(folder / TOKENS, [6])
    with pytest.raises(InputError, match=f"{TOKENS}: damaged: its SHA-256 is not the one in index.json"):
        open_shards(folder)


def test_a_changed_bit_in_large_shards_is_found_on_request(
    write_shards: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_shards([[[5, 6], [7]]]).path
    overwrite(folder / TOKENS, [6])
    monkeypatch.setattr("anybatch.data.shards._VERIFIED_WHEN_OPENED", 0)
    shards = open_shards(folder)
    with pytest.raises(InputError, match=f"{TOKENS}: damaged: its SHA-256"):
        shards.verify()


@pytest.mark.parametrize(
    ("name", "values", "last"),
    [
        ("sentences", [0, 0, 0], 6),
        ("sentences", [0, 3, 6], 6),
        ("sentences", [3, 3, 6], 6),
        ("sentences", [2**32 - 1], 6),
        ("sentences", [5], 6),
        ("documents", [2**32 - 1] * 2, 3),
        ("documents", [2**32 - 1], 3),
        ("documents", [3, 3], 3),
    ],
)
def test_wrong_offsets_are_found_in_large_shards_too(
    write_shards: Write, monkeypatch: pytest.MonkeyPatch, name: str, values: list[int], last: int
) -> None:
    folder = write_shards([[[5, 6], [7]], [[8, 9, 10]]]).path
    overwrite(folder / f"shard-00000.{name}.npy", values)
    monkeypatch.setattr("anybatch.data.shards._VERIFIED_WHEN_OPENED", 0)
    with pytest.raises(
        InputError, match=rf"{name}.npy: damaged: its offsets do not ascend from above 0 to {last}; run"
    ):
        open_shards(folder)


def test_the_loss_of_counted_frequencies(tmp_path: Path) -> None:
    documents = [f"the cat sat on mat {n} the cat ran" for n in range(20)]
    prepare(lambda: documents, tmp_path / "data", vocabulary_size=256)
    shards = open_shards(tmp_path / "data" / "train")
    size = load(tmp_path / "data" / "tokenizer.json").get_vocab_size()
    counts = Counter(int(token) for document in in_shards(shards) for part in document for token in part)
    labels = [min(counts), max(counts, key=lambda token: counts[token])]
    expected = -np.mean([math.log((counts[label] + 1) / (sum(counts.values()) + size)) for label in labels])
    assert math.isclose(shards.frequency_loss([np.array([label]) for label in labels]), expected, rel_tol=1e-12)


def test_the_loss_of_a_stream_counts_the_ends_of_documents(tmp_path: Path) -> None:
    documents = [f"the cat sat on mat {n} the cat ran" for n in range(20)]
    prepare(lambda: documents, tmp_path / "data", tokenizer="characters")
    shards, tokenizer = open_shards(tmp_path / "data" / "train"), load(tmp_path / "data" / "tokenizer.json")
    source = CausalSource(shards, tokenizer, 8)
    targets = source.batch(np.zeros(3, dtype=np.int64), np.arange(3)).inputs["input_ids"].numpy()[:, 1:].reshape(-1)
    stream = np.concatenate([[*np.concatenate(document), 3] for document in in_shards(shards)]).tolist()
    counts, size = Counter(stream), tokenizer.get_vocab_size()
    labels = [stream[place] for place in range(24) if place % 8]
    expected = -np.mean([math.log((counts[label] + 1) / (len(stream) + size)) for label in labels])
    assert math.isclose(shards.frequency_loss([targets], separator=3), expected, rel_tol=1e-12)
