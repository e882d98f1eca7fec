"""What word frequencies alone give, against a count by hand."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from support.shard_documents import documents as in_shards

from anybatch.data.batch import Batch
from anybatch.data.causal import CausalSource
from anybatch.data.frequencies import causal_frequency_loss, masked_frequency_loss
from anybatch.data.prepare import prepare
from anybatch.data.shards import open_shards
from anybatch.data.text import Document
from anybatch.data.vocabulary import load


def test_the_loss_of_counted_frequencies(tmp_path: Path) -> None:
    documents = [Document(f"the cat sat on mat {n} the cat ran", f"document {n}") for n in range(20)]
    prepare(lambda: documents, tmp_path / "data", vocabulary_size=256)
    shards = open_shards(tmp_path / "data" / "train")
    size = load(tmp_path / "data" / "tokenizer.json").get_vocab_size()
    counts = Counter(int(token) for document in in_shards(shards) for part in document for token in part)
    labels = [min(counts), max(counts, key=lambda token: counts[token])]
    expected = -np.mean([math.log((counts[label] + 1) / (sum(counts.values()) + size)) for label in labels])
    batches = [Batch({"masked_labels": torch.tensor([label])}, {"mlm": 1}, 1) for label in labels]
    assert math.isclose(masked_frequency_loss(shards, batches), expected, rel_tol=1e-12)


def test_the_loss_of_a_stream_counts_the_ends_of_documents(tmp_path: Path) -> None:
    documents = [Document(f"the cat sat on mat {n} the cat ran", f"document {n}") for n in range(20)]
    prepare(lambda: documents, tmp_path / "data", tokenizer="characters")
    shards, tokenizer = open_shards(tmp_path / "data" / "train"), load(tmp_path / "data" / "tokenizer.json")
    source = CausalSource(shards, tokenizer, 8)
    batch = source.batch(np.zeros(3, dtype=np.int64), np.arange(3))
    stream = np.concatenate([[*np.concatenate(document), 3] for document in in_shards(shards)]).tolist()
    counts, size = Counter(stream), tokenizer.get_vocab_size()
    labels = [stream[place] for place in range(24) if place % 8]
    expected = -np.mean([math.log((counts[label] + 1) / (len(stream) + size)) for label in labels])
    assert math.isclose(causal_frequency_loss(shards, tokenizer, [batch]), expected, rel_tol=1e-12)
