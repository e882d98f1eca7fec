"""Small made-up text, and the shards and the vocabulary made of it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from anybatch.data import vocabulary
from anybatch.data.prepare import prepare
from anybatch.data.shard_writer import ShardWriter
from anybatch.data.shards import Shards, open_shards

SYLLABLES = ("ba", "co", "di", "fu", "le", "mo", "na", "pi", "ro", "su", "ta", "ve")


def make_documents(count: int, seed: int = 0) -> list[str]:
    """Documents of 1 to 20 sentences of 3 to 15 made-up words."""
    rng = np.random.default_rng(seed)
    documents = []
    for _ in range(count):
        sentences = []
        for _ in range(rng.integers(1, 21)):
            words = ["".join(rng.choice(SYLLABLES, rng.integers(1, 4))) for _ in range(rng.integers(3, 16))]
            sentences.append(" ".join(words).capitalize() + ".")
        documents.append(" ".join(sentences))
    return documents


@pytest.fixture
def made_up() -> Callable[[int], list[str]]:
    """That many made-up documents, always the same."""
    return make_documents


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    texts = make_documents(60)
    return vocabulary.train(lambda: texts, 400)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `anybatch data prepare` makes, over several shards."""
    out = tmp_path_factory.mktemp("prepared") / "data"
    prepare(lambda: make_documents(80), out, vocabulary_size=400, held_out=0.2, max_shard_tokens=2000)
    return out


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Shards:
    """1,500 documents, to count how often something happens."""
    return write(tmp_path_factory.mktemp("many"), tokenizer, random_documents(1500))


def random_documents(count: int, seed: int = 1) -> list[list[list[int]]]:
    """Documents as sentences of ordinary token numbers, 5 to 399."""
    rng = np.random.default_rng(seed)
    return [
        [rng.integers(5, 400, rng.integers(1, 40)).tolist() for _ in range(rng.integers(1, 25))] for _ in range(count)
    ]


def write(
    path: Path, tokenizer: Tokenizer, documents: list[list[list[int]]], max_shard_tokens: int = 1 << 25
) -> Shards:
    """Shards of token numbers, opened."""
    writer = ShardWriter(path, tokenizer, max_shard_tokens)
    for document in documents:
        if sentences := [sentence for sentence in document if sentence]:
            lengths = np.array([len(sentence) for sentence in sentences])
            writer.add_documents(np.concatenate(sentences), lengths, np.array([len(sentences)]))
    writer.close()
    return open_shards(path)


@pytest.fixture(scope="session")
def write_shards(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Callable[..., Shards]:
    """write(documents, max_shard_tokens) into a new folder."""

    def into_new_folder(documents: list[list[list[int]]], max_shard_tokens: int = 1 << 25) -> Shards:
        return write(tmp_path_factory.mktemp("shards"), tokenizer, documents, max_shard_tokens)

    return into_new_folder
