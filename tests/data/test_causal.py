"""Contexts are the stream of all documents, cut evenly, whatever shards they lie in."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from anybatch.data.causal import CausalSource
from anybatch.data.shards import Shards
from anybatch.errors import InputError

Write = Callable[..., Shards]


@given(
    documents=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), min_size=1, max_size=9),
    length=st.integers(2, 12),
    most=st.integers(1, 60),
)
@settings(deadline=None, max_examples=40)
def test_contexts_are_cuts_of_one_stream(
    write_shards: Write, tokenizer: Tokenizer, documents: list[list[int]], length: int, most: int
) -> None:
    numbers = iter(range(5, 400))
    tokens = [[[next(numbers) for _ in range(size)] for size in sizes] for sizes in documents]
    stream = [token for document in tokens for token in [*(t for sentence in document for t in sentence), 3]]
    shards = write_shards(tokens, most)
    if len(stream) < length:
        with pytest.raises(InputError, match=f"not enough for one sequence of {length}"):
            CausalSource(shards, tokenizer, length)
        return
    source = CausalSource(shards, tokenizer, length)
    count = len(stream) // length
    assert source.num_examples == count
    order = np.arange(count)[::-1]
    batch = source.batch(np.zeros(count, dtype=np.int64), order)
    assert batch.inputs["input_ids"].numpy()[::-1].reshape(-1).tolist() == stream[: count * length]
    assert batch.num_targets == {"lm": count * (length - 1)}


def test_a_short_sequence_is_refused(many: Shards, tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="sequence length 1: must be at least 2"):
        CausalSource(many, tokenizer, 1)
