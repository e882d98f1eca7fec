"""What word frequencies alone give: the mark that a language model has to pass before it has learned anything else."""

from collections.abc import Iterable

import numpy as np

from anybatch.data.batch import Batch
from anybatch.data.shards import Shards


def frequency_loss(shards: Shards, batches: Iterable[Batch]) -> float:
    """The mean cross-entropy, in nats, of the masked words in `batches` under the token frequencies of `shards`.

    Each token of the vocabulary is counted once more than it occurs (Laplace), in the first shard only, which is a
    sample large enough for frequencies.
    """
    counts = np.bincount(shards.parts[0].tokens, minlength=shards.vocabulary_size) + 1
    labels = np.concatenate([batch.inputs["masked_labels"].numpy() for batch in batches])
    return float(-np.log(counts[labels] / counts.sum()).mean())
