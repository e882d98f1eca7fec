"""Raw documents to a folder that a run can be trained on.

    OUT/tokenizer.json    the vocabulary
    OUT/train/            token shards (see shards.py)
    OUT/held_out/         token shards of the documents kept for evaluation

They appear together or not at all.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from anybatch.data import vocabulary
from anybatch.data.sampling import random_words
from anybatch.data.shards import MAX_SHARD_TOKENS, ShardWriter
from anybatch.data.text import Document, split_sentences
from anybatch.errors import InputError
from anybatch.files import new_folder

TOKENIZER = "tokenizer.json"
TRAIN = "train"
HELD_OUT = "held_out"

# A random next sentence comes from another document of the same part.
_FEWEST_IN_A_PART = 2

# Enough text at a time to keep the tokenizer's threads busy, little enough to hold.
_CHARACTERS_AT_ONCE = 1 << 21

Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class Counts:
    """The size of one part."""

    documents: int
    sentences: int
    tokens: int


@dataclass(frozen=True)
class Summary:
    """What `prepare` wrote."""

    vocabulary_size: int
    train: Counts
    held_out: Counts


def prepare(
    documents: Callable[[], Iterable[Document]],
    out: Path,
    *,
    vocabulary_size: int = 8192,
    tokenizer: Tokenizer | None = None,
    held_out: float = 0.05,
    seed: int = 0,
    progress: Progress | None = None,
    max_shard_tokens: int = MAX_SHARD_TOKENS,
) -> Summary:
    """Writes the folder `out`: a vocabulary, and token shards for training and evaluation.

    The text is read in passes (to count it, to train the vocabulary, to write it), never held as a whole.

    Args:
        documents: gives the same documents afresh each time it is called.
        vocabulary_size: of the vocabulary trained on the training documents; not used where `tokenizer` is given.
        held_out: the share of documents kept for evaluation, chosen by a hash of (seed, document number). Either part
            gets at least two documents, which next-sentence prediction needs.
        progress: called with the name of the pass and the number of documents done in it.

    Raises:
        InputError: fewer than four documents, or fewer than two of two tokens or more in a part; a share outside
            (0, 1), a vocabulary size out of bounds, a tokenizer that cannot encode the text, or `out` exists.
    """
    if not 0 < held_out < 1:
        raise InputError(f"held_out = {held_out}: must lie between 0 and 1, both excluded")
    report = progress or (lambda stage, done: None)
    with new_folder(out) as folder:
        count = sum(1 for _ in _reported(documents(), "reading", report))
        is_held_out = _choose(count, held_out, seed)

        def training_texts() -> Iterator[str]:
            for number, document in enumerate(_reported(documents(), "vocabulary", report)):
                if not is_held_out[number]:
                    yield document.text

        if tokenizer is None:
            tokenizer = vocabulary.train(training_texts, vocabulary_size)
        vocabulary.ordinary_ids(tokenizer, "the tokenizer")
        vocabulary.save(tokenizer, folder / TOKENIZER)
        writers = []
        for name in (TRAIN, HELD_OUT):
            (folder / name).mkdir()
            writers.append(ShardWriter(folder / name, tokenizer, max_shard_tokens))
        usable = [0, 0]
        for number, sentences in enumerate(_encoded(_reported(documents(), "tokens", report), tokenizer)):
            part = int(is_held_out[number])
            writers[part].add(sentences)
            usable[part] += sum(map(len, sentences)) > 1
        for name, found in zip((TRAIN, HELD_OUT), usable, strict=True):
            _check_usable(name, found)
        train, held = (Counts(**writer.close()) for writer in writers)
    return Summary(tokenizer.get_vocab_size(), train, held)


def _reported(documents: Iterable[Document], stage: str, report: Progress) -> Iterator[Document]:
    for done, document in enumerate(documents, start=1):
        yield document
        report(stage, done)


def _choose(count: int, held_out: float, seed: int) -> NDArray[np.bool_]:
    """Which of `count` documents are held out: those with the smallest hashes."""
    if count < 2 * _FEWEST_IN_A_PART:
        raise InputError(
            f"{count} document{'' if count == 1 else 's'}: at least {2 * _FEWEST_IN_A_PART} are needed, two to train "
            "on and two to hold out; in a .txt file two blank lines end a document, in .jsonl each line is one"
        )
    hashes = random_words(seed, "held out", np.zeros(count, dtype=np.int64), np.arange(count), 1)[:, 0]
    chosen = np.zeros(count, dtype=np.bool_)
    num_chosen = min(max(round(count * held_out), _FEWEST_IN_A_PART), count - _FEWEST_IN_A_PART)
    chosen[np.argsort(hashes, kind="stable")[:num_chosen]] = True
    return chosen


def _check_usable(part: str, count: int) -> None:
    """InputError where too few documents of `part` can become an example, which takes two tokens."""
    if count < _FEWEST_IN_A_PART:
        raise InputError(
            f"the {part.replace('_', '-')} part has {count} document{'' if count == 1 else 's'} of two tokens or more: "
            f"at least {_FEWEST_IN_A_PART} are needed; give more text"
        )


def _encoded(documents: Iterable[Document], tokenizer: Tokenizer) -> Iterator[list[list[int]]]:
    """The sentences of each document as token numbers."""
    for texts in _in_portions(documents):
        sentences = [split_sentences(text) for text in texts]
        flat = [sentence for part in sentences for sentence in part]
        encodings = iter(_encode(flat, tokenizer))
        for part in sentences:
            yield [next(encodings).ids for _ in part]


def _encode(sentences: list[str], tokenizer: Tokenizer) -> list[Encoding]:
    try:
        return tokenizer.encode_batch_fast(sentences, add_special_tokens=False)
    # The library raises plain Exception for whatever it cannot encode.
    except Exception as error:
        raise InputError(f"the tokenizer cannot encode the text: {error}; use another, or have one trained") from None


def _in_portions(documents: Iterable[Document]) -> Iterator[list[str]]:
    portion: list[str] = []
    length = 0
    for document in documents:
        portion.append(document.text)
        length += len(document.text)
        if length >= _CHARACTERS_AT_ONCE:
            yield portion
            portion, length = [], 0
    if portion:
        yield portion
