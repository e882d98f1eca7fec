"""What word frequencies alone give, against a count by hand."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from anybatch.data.batch import Batch
from anybatch.data.frequencies import frequency_loss
from anybatch.data.prepare import prepare
from anybatch.data.shards import open_shards
from anybatch.data.text import Document
from anybatch.data.vocabulary import load


def test_the_loss_of_counted_frequencies(tmp_path: Path) -> None:
    documents = [Document(f"the cat sat on mat {n} the cat ran", f"document {n}") for n in range(20)]
    prepare(lambda: documents, tmp_path / "data", vocabulary_size=256)
    shards = open_shards(tmp_path / "data" / "train")
    size = load(tmp_path / "data" / "tokenizer.json").get_vocab_size()
    counts = Counter(int(token) for n in range(shards.num_documents) for part in shards.document(n) for token in part)
    labels = [min(counts), max(counts, key=lambda token: counts[token])]
    expected = -np.mean([math.log((counts[label] + 1) / (sum(counts.values()) + size)) for label in labels])
    batches = [Batch({"masked_labels": torch.tensor([label])}, {"mlm": 1}, 1) for label in labels]
    assert math.isclose(frequency_loss(shards, batches), expected, rel_tol=1e-12)
