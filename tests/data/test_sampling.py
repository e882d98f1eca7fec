import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anybatch.data.sampling import Stream, below, generator, random_words
from anybatch.errors import InputError

NUMBERS = st.integers(0, 2**63 - 1)


@given(seed=st.integers(0, 2**64 - 1), epochs=st.lists(NUMBERS, min_size=1, max_size=4), example=NUMBERS)
@settings(deadline=None)
def test_many_at_once_are_numpys_own_words(seed: int, epochs: list[int], example: int) -> None:
    words = random_words(seed, "masks", epochs, [example] * len(epochs), 11)
    for epoch, row in zip(epochs, words, strict=True):
        assert row.tolist() == generator(seed, epoch, example, "masks").bit_generator.random_raw(11).tolist()


def test_each_part_of_the_key_matters() -> None:
    drawn = [
        random_words(seed, purpose, [epoch], [example], 8).tobytes()
        for seed, purpose, epoch, example in [
            (0, "a", 0, 0),
            (1, "a", 0, 0),
            (0, "b", 0, 0),
            (0, "a", 1, 0),
            (0, "a", 0, 1),
        ]
    ]
    assert len(set(drawn)) == 5


@given(num_examples=st.integers(1, 60), seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 10**9))
@settings(deadline=None)
def test_each_epoch_visits_every_example_once(num_examples: int, seed: int, epoch: int) -> None:
    epochs, examples = Stream(num_examples, seed).at(epoch * num_examples, num_examples)
    assert set(epochs.tolist()) == {epoch}
    assert sorted(examples.tolist()) == list(range(num_examples))


@given(start=st.integers(0, 300), cuts=st.lists(st.integers(1, 40), min_size=1, max_size=8))
@settings(deadline=None)
def test_a_position_does_not_depend_on_the_cut(start: int, cuts: list[int]) -> None:
    stream = Stream(40, seed=3)
    whole = [stream.at(start + position, 1) for position in range(sum(cuts))]
    begins = start + np.cumsum([0, *cuts[:-1]])
    parts = [Stream(40, seed=3).at(int(begin), count) for begin, count in zip(begins, cuts, strict=True)]
    for column in (0, 1):
        expected = np.concatenate([one[column] for one in whole])
        assert np.concatenate([part[column] for part in parts]).tolist() == expected.tolist()


def test_epochs_and_seeds_have_their_own_order() -> None:
    orders = {Stream(50, seed).at(epoch * 50, 50)[1].tobytes() for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_every_example_is_as_likely_in_every_place() -> None:
    places = np.zeros((8, 8))
    for epoch in range(1500):
        places[np.arange(8), Stream(8, seed=5).at(8 * epoch, 8)[1]] += 1
    assert np.abs(places / 1500 - 1 / 8).max() < 5 * np.sqrt(1 / 8 * 7 / 8 / 1500)


def test_below_is_uniform_and_bounded() -> None:
    numbers = below(random_words(0, "x", [0], [0], 70_000)[0], 7)
    shares = np.bincount(numbers, minlength=7) / 70_000
    assert len(shares) == 7
    assert np.abs(shares - 1 / 7).max() < 0.006


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Stream(0, 0), "num_examples = 0: there must be at least 1"),
        (lambda: Stream(5, -1), "seed = -1: must be in"),
        (lambda: Stream(5, 2**64), "must be in"),
        (lambda: Stream(5, 0).at(0, 0), "a batch of 0 examples: must be at least 1"),
        (lambda: Stream(5, 0).at(0, 6), "a batch of 6 examples is larger than the data, which has 5"),
    ],
)
def test_wrong_settings_are_named(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
