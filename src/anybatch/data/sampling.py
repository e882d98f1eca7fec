"""Random numbers and the order of examples, as pure functions of their keys; nothing here has a state.

Philox (Salmon et al. 2011, Parallel Random Numbers: As Easy as 1, 2, 3) turns a key and a counter into random words.
So an example's words depend only on (seed, purpose, epoch, example): not on its batch, nor on earlier draws.
`generator` is NumPy's Philox; `random_words` gives the same words for many examples at once.
"""

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anybatch.errors import InputError

Words = NDArray[np.uint64]

_ROUNDS = 10
_MULTIPLIERS = np.array([0xD2E7470EE14C6C93, 0xCA5A826395121157], dtype=np.uint64)[:, None, None]
_KEY_STEPS = np.array([0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B], dtype=np.uint64)[:, None, None]
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_WORDS_A_BLOCK = 4


class Stream:
    """The endless order of examples: epoch e visits each of `num_examples` once, in an order keyed by (seed, e).

    Raises:
        InputError: `num_examples` is below 1, or `seed` is not in [0, 2^64).
    """

    def __init__(self, num_examples: int, seed: int) -> None:
        if num_examples < 1:
            raise InputError(f"num_examples = {num_examples}: there must be at least 1 example to sample from")
        _check_seed(seed)
        self.num_examples = num_examples
        self.seed = seed

    def at(self, start: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns (epochs, examples), int64[count] each, at positions start .. start + count - 1; no cost in `start`.

        Raises:
            InputError: `count` is below 1, or above `num_examples`, so that a batch would hold an example twice.
        """
        if start < 0:
            raise ValueError(f"start = {start}: must be 0 or more")
        if count < 1:
            raise InputError(f"a batch of {count} examples: must be at least 1")
        if count > self.num_examples:
            raise InputError(
                f"a batch of {count} examples is larger than the data, which has {self.num_examples}; "
                "choose a smaller batch or prepare more data"
            )
        positions = np.arange(start, start + count, dtype=np.int64)
        epochs, places = np.divmod(positions, self.num_examples)
        examples = np.empty(count, dtype=np.int64)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            here = epochs == epoch
            examples[here] = _order(self.num_examples, self.seed, epoch)[places[here]]
        return epochs, examples


@lru_cache(maxsize=4)
def _order(num_examples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Returns a permutation of 0 .. num_examples - 1, keyed by (seed, epoch)."""
    words = random_words(seed, "order", [epoch], [0], num_examples)[0]
    order = np.argsort(words, kind="stable").astype(np.int64)
    order.flags.writeable = False
    return order


def generator(seed: int, epoch: int, example: int, purpose: str) -> np.random.Generator:
    """Returns one example's randomness for one purpose, as a NumPy generator."""
    _check_seed(seed)
    counter = np.array([0, 0, epoch, example], dtype=np.uint64)
    key = np.array([seed, _purpose_key(purpose)], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=key))


def random_words(seed: int, purpose: str, epochs: ArrayLike, examples: ArrayLike, count: int) -> Words:
    """Returns the first `count` words of `generator(seed, epoch, example, purpose)` for B examples: uint64[B, count].

    Philox4x64 with 10 rounds; word w of an example is word w mod 4 of the counter (w div 4 + 1, 0, epoch, example).
    """
    _check_seed(seed)
    num_blocks = -(-count // _WORDS_A_BLOCK)
    rows = np.asarray(examples, dtype=np.uint64)
    # Words 0 and 2 of each block are multiplied, words 1 and 3 are mixed in: uint64[2, B, blocks].
    even, odd = np.zeros((2, 2, len(rows), num_blocks), dtype=np.uint64)
    even[0] = np.arange(1, num_blocks + 1, dtype=np.uint64)
    even[1] = np.asarray(epochs, dtype=np.uint64)[:, None]
    odd[1] = rows[:, None]
    key = np.array([seed, _purpose_key(purpose)], dtype=np.uint64)[:, None, None]
    for _ in range(_ROUNDS):
        high, low = _multiply(even, _MULTIPLIERS)
        even, odd = high[::-1] ^ odd ^ key, low[::-1]
        key = key + _KEY_STEPS
    words = np.stack([even[0], odd[0], even[1], odd[1]], axis=-1)
    return words.reshape(len(rows), num_blocks * _WORDS_A_BLOCK)[:, :count]


def checksum(epochs: ArrayLike, examples: ArrayLike) -> int:
    """Returns a sum over examples, modulo 2^64, of a word for each (epoch, example): the same in any order and cut.

    The word is the first of the example's stream for this purpose, for any seed of the run.
    """
    return int(random_words(0, "checksum", epochs, examples, 1).sum(dtype=np.uint64))


def below(words: Words, bounds: ArrayLike) -> NDArray[np.int64]:
    """Maps each word to a number in 0 .. bound - 1, by its upper 32 bits; uniform to bound / 2^32, bound <= 2^32."""
    return (((words >> _HALF) * np.asarray(bounds).astype(np.uint64)) >> _HALF).astype(np.int64)


def _multiply(a: Words, b: Words) -> tuple[Words, Words]:
    """Returns the upper and the lower 64 bits of a * b, computed from halves: NumPy has no 128-bit product."""
    a_high, a_low = a >> _HALF, a & _LOW
    b_high, b_low = b >> _HALF, b & _LOW
    middle = a_high * b_low
    carried = (a_low * b_low >> _HALF) + (middle & _LOW) + a_low * b_high
    return a_high * b_high + (middle >> _HALF) + (carried >> _HALF), a * b


@lru_cache(maxsize=64)
def _purpose_key(purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**64:
        raise InputError(f"seed = {seed}: must be in [0, 2^64)")
