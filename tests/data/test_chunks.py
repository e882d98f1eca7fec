from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anybatch.data.chunks import cut
from anybatch.data.shards import Shards

Write = Callable[..., Shards]
LENGTHS = st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=8), max_size=8)


def cut_one_by_one(documents: list[list[int]], room: int) -> list[tuple[int, int, int, list[int]]]:
    """(begin, end, document, splits) of each chunk, from the lengths of the sentences, without NumPy."""
    chunks = []
    start = 0
    for number, lengths in enumerate(documents):
        sentence_begins = {start + sum(lengths[:place]) for place in range(len(lengths))}
        total = sum(lengths)
        count = -(-total // room)
        for place in range(count):
            begin, end = start + total * place // count, start + total * (place + 1) // count
            splits = [token for token in range(begin + 1, end) if token in sentence_begins]
            if end - begin > 1:
                chunks.append((begin, end, number, splits or [(begin + end) // 2]))
        start += total
    return chunks


@given(documents=LENGTHS, room=st.integers(13, 40), max_shard_tokens=st.integers(1, 200))
@settings(deadline=None)
def test_chunks_are_the_even_cuts_of_documents(
    write_shards: Write, documents: list[list[int]], room: int, max_shard_tokens: int
) -> None:
    shards = write_shards([[[5] * length for length in lengths] for lengths in documents], max_shard_tokens)
    chunks = cut(shards.parts, room)
    found = [
        (int(begin), int(end), int(document), chunks.split[chunks.first_split[c] : chunks.first_split[c + 1]].tolist())
        for c, (begin, end, document) in enumerate(zip(chunks.begin, chunks.end, chunks.document, strict=True))
    ]
    assert found == cut_one_by_one(documents, room)
    assert all(2 <= end - begin <= room for begin, end, _, _ in found)
    assert [int(owner) for owner in chunks.owner] == [c for c, chunk in enumerate(found) for _ in chunk[3]]


@pytest.mark.parametrize("documents", [[], [[[5]]], [[[5]], [[6]]]])
def test_single_tokens_make_no_chunk(write_shards: Write, documents: list[list[list[int]]]) -> None:
    assert len(cut(write_shards(documents).parts, 13)) == 0
