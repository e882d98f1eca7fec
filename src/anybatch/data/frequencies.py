"""The loss that word frequencies give: a language model must be better before it has learned anything else."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from anybatch.data.batch import Batch
from anybatch.data.pairs import Marks
from anybatch.data.shards import Shards


def masked_frequency_loss(shards: Shards, batches: Iterable[Batch]) -> float:
    """Returns the mean cross-entropy, in nats, of the masked words in `batches` under the tokens' frequencies.

    Each token of the vocabulary is counted once more than it occurs (Laplace), in the first shard only; this sample is
    large enough for frequencies.
    """
    return _loss(_counts(shards), [batch.inputs["masked_labels"].numpy() for batch in batches])


def causal_frequency_loss(shards: Shards, tokenizer: Tokenizer, batches: Iterable[Batch]) -> float:
    """Returns the same for every token except the first of each context; the [SEP] after each document is a token."""
    counts = _counts(shards)
    counts[Marks.of(tokenizer).separator] += len(shards.parts[0].document_ends)
    return _loss(counts, [batch.inputs["input_ids"].numpy()[:, 1:].reshape(-1) for batch in batches])


def _counts(shards: Shards) -> NDArray[np.int64]:
    return np.bincount(shards.parts[0].tokens, minlength=shards.vocabulary_size) + 1


def _loss(counts: NDArray[np.int64], targets: list[NDArray[Any]]) -> float:
    return float(-np.log(counts[np.concatenate(targets)] / counts.sum()).mean())
