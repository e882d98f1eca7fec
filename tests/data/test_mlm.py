from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from anybatch.data import vocabulary
from anybatch.data.mlm import MlmSettings, PretrainingSource, cut
from anybatch.data.shard_writer import ShardWriter
from anybatch.data.shards import Shards, open_shards
from anybatch.errors import InputError

Write = Callable[..., Shards]
CYCLE = 30
NUM_DOCUMENTS = 12


def tell_tale_documents(seed: int = 0) -> list[list[list[int]]]:
    """Document d counts up through its own thirty tokens, so that a token tells its document and its successor."""
    rng = np.random.default_rng(seed)
    documents = []
    for document in range(NUM_DOCUMENTS):
        lengths = rng.integers(1, 25, rng.integers(2, 60))
        tokens = 5 + CYCLE * document + np.arange(lengths.sum()) % CYCLE
        documents.append([part.tolist() for part in np.split(tokens, np.cumsum(lengths)[:-1])])
    return documents


@pytest.fixture(scope="session")
def tell_tale(write_shards: Write) -> Shards:
    return write_shards(tell_tale_documents(), 1500)


def test_a_token_that_no_vocabulary_has_is_named(tell_tale: Shards, tokenizer: Tokenizer) -> None:
    examples = np.arange(4)
    source = PretrainingSource(tell_tale, tokenizer, 32, seed=0)
    source.batch(np.zeros_like(examples), examples)
    # Of shards too large to be read when they are opened, a token is seen first when it is taken.
    damaged = PretrainingSource(replace(tell_tale, vocabulary_size=4), tokenizer, 32, seed=0)
    with pytest.raises(InputError, match=r"damaged: token \d+ of a vocabulary of 4; `anybatch data inspect` names"):
        damaged.batch(np.zeros_like(examples), examples)


def unmasked(inputs: dict[str, torch.Tensor]) -> np.ndarray:
    """input_ids as they were before masking."""
    ids = inputs["input_ids"].clone().reshape(-1)
    ids[inputs["masked_positions"]] = inputs["masked_labels"]
    return ids.reshape(inputs["input_ids"].shape).numpy()


def whole_epoch(source: PretrainingSource, epoch: int = 0) -> dict[str, torch.Tensor]:
    examples = np.arange(source.num_examples)
    return dict(source.batch(np.full_like(examples, epoch), examples).inputs)


@given(
    seq_length=st.integers(16, 90),
    epoch=st.integers(0, 10**6),
    seed=st.integers(0, 2**64 - 1),
    rate=st.floats(0.01, 0.9),
    most=st.none() | st.integers(1, 8),
)
@settings(deadline=None, max_examples=60)
def test_every_example_is_well_formed(
    tell_tale: Shards, tokenizer: Tokenizer, seq_length: int, epoch: int, seed: int, rate: float, most: int | None
) -> None:
    source = PretrainingSource(
        tell_tale, tokenizer, seq_length, seed, settings=MlmSettings(masking_rate=rate), max_predictions=most
    )
    assert tell_tale.num_tokens / (seq_length - 3) <= source.num_examples <= tell_tale.num_tokens / 2
    inputs = whole_epoch(source, epoch)
    ids = unmasked(inputs)
    positions = inputs["masked_positions"].numpy()
    assert (np.diff(positions) > 0).all()
    for row in range(source.num_examples):
        length = int(inputs["attention_mask"][row].sum())
        middle, last = np.flatnonzero(ids[row] == 3)
        a, b = ids[row, 1:middle], ids[row, middle + 1 : last]
        assert (ids[row, 0], last) == (2, length - 1)
        assert (ids[row, length:] == 0).all()
        expected_mask = np.arange(seq_length) < length
        assert (inputs["attention_mask"][row].numpy() == expected_mask).all()
        assert (inputs["token_type_ids"][row].numpy() == (np.arange(seq_length) > middle) * expected_mask).all()
        assert min(a.min(), b.min()) >= 5
        joined = np.concatenate([a, b])
        steps_on = (np.diff(joined) - 1) % CYCLE == 0
        at_seam = len(a) - 1
        assert np.delete(steps_on, at_seam).all(), "A and B are runs of consecutive tokens"
        owner_a, owner_b = (a - 5) // CYCLE, (b - 5) // CYCLE
        assert len(set(owner_a)) == len(set(owner_b)) == 1
        if inputs["next_sentence_label"][row]:
            assert owner_a[0] != owner_b[0], "a random B comes from another document"
        else:
            assert owner_a[0] == owner_b[0]
            assert steps_on[at_seam], "a real B follows A"
        here = positions[positions // seq_length == row] % seq_length
        assert len(here) == min(max(round((length - 3) * rate), 1), most or seq_length)
        assert not {0, middle, last} & set(here.tolist())
        assert here.max() < last


@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_an_example_depends_on_its_own_numbers_alone(
    tell_tale: Shards, tokenizer: Tokenizer, data: st.DataObject
) -> None:
    source = PretrainingSource(tell_tale, tokenizer, 40, seed=7)
    pairs = data.draw(
        st.lists(st.tuples(st.integers(0, 5), st.integers(0, source.num_examples - 1)), min_size=1, max_size=9)
    )
    epochs, examples = np.array(pairs).T
    again = PretrainingSource(tell_tale, tokenizer, 40, seed=7)
    together = source.batch(epochs, examples)
    alone = [again.batch(epochs[row : row + 1], examples[row : row + 1]) for row in range(len(pairs))]
    for name, expected in together.inputs.items():
        shift = 40 * np.arange(len(pairs)) if name == "masked_positions" else np.zeros(len(pairs), dtype=np.int64)
        joined = torch.cat([batch.inputs[name] + int(by) for batch, by in zip(alone, shift, strict=True)])
        assert torch.equal(joined, expected), name
    assert together.num_targets == {"mlm": sum(batch.num_targets["mlm"] for batch in alone), "nsp": len(pairs)}
    assert together.num_examples == len(pairs)


def test_epochs_and_seeds_draw_anew(tell_tale: Shards, tokenizer: Tokenizer) -> None:
    drawn = {
        whole_epoch(PretrainingSource(tell_tale, tokenizer, 40, seed), epoch)["input_ids"].numpy().tobytes()
        for seed in range(2)
        for epoch in range(3)
    }
    assert len(drawn) == 6


def test_the_cut_into_shards_changes_nothing(tell_tale: Shards, write_shards: Write, tokenizer: Tokenizer) -> None:
    assert len(tell_tale.parts) > 2
    whole = write_shards(tell_tale_documents())
    assert len(whole.parts) == 1
    one, several = (whole_epoch(PretrainingSource(shards, tokenizer, 64, seed=0)) for shards in (whole, tell_tale))
    assert all(torch.equal(one[name], several[name]) for name in one)


@pytest.fixture(scope="session")
def drawn(many: Shards, tokenizer: Tokenizer) -> dict[str, torch.Tensor]:
    """One epoch of some 8,000 examples, and of ten times as many masked words."""
    return whole_epoch(PretrainingSource(many, tokenizer, 64, seed=11))


def near(count: float, total: float, share: float) -> bool:
    """Whether `count` of `total` lies within five standard deviations of `share`."""
    return abs(count - total * share) < 5 * np.sqrt(total * share * (1 - share))


def test_masks_are_80_10_10(drawn: dict[str, torch.Tensor]) -> None:
    shown = drawn["input_ids"].reshape(-1)[drawn["masked_positions"]]
    labels = drawn["masked_labels"]
    total = len(labels)
    is_mask, is_kept = shown == 4, shown == labels
    assert total > 30_000
    assert near(int(is_mask.sum()), total, 0.8)
    # A random token is the right one once in 395 times.
    assert near(int(is_kept.sum()), total, 0.1 + 0.1 / 395)
    random = shown[~is_mask & ~is_kept]
    assert random.min() >= 5, "never a special token"
    assert len(random.unique()) > 390
    assert near(int((random < 202).sum()), len(random), 197 / 395)


def test_every_word_is_as_likely_to_be_masked(drawn: dict[str, torch.Tensor]) -> None:
    full = drawn["attention_mask"].sum(1) == 64
    chosen = torch.zeros(drawn["input_ids"].numel())
    chosen[drawn["masked_positions"]] = 1
    chosen = chosen.reshape(-1, 64)[full]
    is_separator = torch.from_numpy(unmasked(drawn))[full] == 3
    counts, places = chosen.sum(0), (~is_separator).sum(0)
    assert not counts[[0, 63]].any()
    # Of 61 words 9 are masked.
    assert all(
        near(float(count), float(place), 9 / 61) for count, place in zip(counts[1:63], places[1:63], strict=True)
    )


def test_half_of_the_pairs_are_random_and_no_length_tells(drawn: dict[str, torch.Tensor]) -> None:
    label = drawn["next_sentence_label"].numpy()
    assert near(label.sum(), len(label), 0.5)
    total = drawn["attention_mask"].sum(1).numpy()
    second = drawn["token_type_ids"].sum(1).numpy()
    for lengths in (total, second, total - second):
        real, random = np.sort(lengths[label == 0]), np.sort(lengths[label == 1])
        # Kolmogorov and Smirnov: the greatest distance of the two distributions, at a level of about one in a million.
        distance = np.abs(
            np.searchsorted(real, lengths, side="right") / len(real)
            - np.searchsorted(random, lengths, side="right") / len(random)
        ).max()
        assert distance < 2.7 * np.sqrt(1 / len(real) + 1 / len(random))


def test_a_random_part_has_exactly_the_length_of_the_one_it_replaces(many: Shards, tokenizer: Tokenizer) -> None:
    chunk_lengths = [
        int(whole_epoch(PretrainingSource(many, tokenizer, 64, seed))["attention_mask"][:500].sum())
        for seed in range(4)
    ]
    assert len(set(chunk_lengths)) == 1


def test_a_document_that_is_most_of_the_data_still_finds_another(write_shards: Write, tokenizer: Tokenizer) -> None:
    shards = write_shards([[[7] * 9] * 400, [[8, 8, 8]]])
    inputs = whole_epoch(PretrainingSource(shards, tokenizer, 32, seed=0))
    random = inputs["next_sentence_label"] == 1
    assert near(int(random.sum()), len(random), 0.5)
    for ids, label in zip(unmasked(inputs), random, strict=True):
        assert ({7, 8} <= set(ids.tolist())) == bool(label)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seq_length": 15}, r"sequence length 15: must lie in \[16, 32768\]"),
        ({"seq_length": 40_000}, "sequence length 40000"),
        ({"settings": MlmSettings(masking_rate=0.0)}, "masking_rate = 0.0: must lie between 0 and 1"),
        ({"settings": MlmSettings(masking_rate=1.0)}, "masking_rate = 1.0"),
        ({"max_predictions": 0}, "max_predictions = 0: must be at least 1"),
    ],
)
def test_wrong_settings_are_named(
    tell_tale: Shards, tokenizer: Tokenizer, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        PretrainingSource(tell_tale, tokenizer, **{"seq_length": 32, "seed": 0, **options})


@pytest.mark.parametrize("documents", [[], [[[5, 6, 7]] * 20], [[[5, 6, 7]], [[8]]]])
def test_too_little_text_is_named(write_shards: Write, tokenizer: Tokenizer, documents: list[list[list[int]]]) -> None:
    with pytest.raises(InputError, match=rf"holds {len(documents)} documents?; at least 2 of two tokens or more"):
        PretrainingSource(write_shards(documents), tokenizer, 32, seed=0)


def test_a_vocabulary_without_a_word_is_refused(tmp_path: Path) -> None:
    tokenizer = vocabulary.from_words({name: number for number, name in enumerate(vocabulary.SPECIAL_TOKENS)})
    writer = ShardWriter(tmp_path, tokenizer)
    for _ in range(2):
        writer.add_documents(np.ones(3, dtype=np.int64), np.array([3]), np.array([1]))
    writer.close()
    with pytest.raises(InputError, match="has no ordinary token"):
        PretrainingSource(open_shards(tmp_path), tokenizer, 32, seed=0)


def test_another_vocabulary_is_refused(folder: Path, tokenizer: Tokenizer) -> None:
    shards = open_shards(folder / "train")
    PretrainingSource(shards, vocabulary.load(folder / "tokenizer.json"), 32, seed=0)
    with pytest.raises(InputError, match="the vocabulary does not match the shards"):
        PretrainingSource(shards, tokenizer, 32, seed=0)


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
