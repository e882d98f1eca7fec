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
from tokenizers import Tokenizer

from anybatch.data import vocabulary
from anybatch.data.sampling import random_words
from anybatch.data.shards import MAX_SHARD_TOKENS, ShardWriter
from anybatch.data.text import Document, split_sentences
from anybatch.errors import InputError
from anybatch.files import new_folder

TOKENIZER = "tokenizer.json"
TRAIN = "train"
HELD_OUT = "held_out"

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
            gets at least two documents, which next-sentence prediction needs, or one where there are fewer than four.
        progress: called with the name of the pass and the number of documents done in it.

    Raises:
        InputError: fewer than two documents, a share outside (0, 1), a vocabulary size out of bounds, or `out` exists.
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
        vocabulary.special_ids(tokenizer)
        vocabulary.save(tokenizer, folder / TOKENIZER)
        writers = []
        for name in (TRAIN, HELD_OUT):
            (folder / name).mkdir()
            writers.append(ShardWriter(folder / name, tokenizer, max_shard_tokens))
        encoded = _encoded(_reported(documents(), "tokens", report), tokenizer)
        for number, sentences in enumerate(encoded):
            writers[int(is_held_out[number])].add(sentences)
        train, held = (Counts(**writer.close()) for writer in writers)
        for name, counts in ((TRAIN, train), (HELD_OUT, held)):
            if not counts.documents:
                raise InputError(f"no document of the {name.replace('_', '-')} part has a word in it; give more text")
    return Summary(tokenizer.get_vocab_size(), train, held)


def _reported(documents: Iterable[Document], stage: str, report: Progress) -> Iterator[Document]:
    for done, document in enumerate(documents, start=1):
        yield document
        report(stage, done)


def _choose(count: int, held_out: float, seed: int) -> NDArray[np.bool_]:
    """Which of `count` documents are held out: those with the smallest hashes."""
    if count < 2:
        raise InputError(
            f"{count} document{'' if count == 1 else 's'}: at least 2 are needed, one to train on and one to hold out; "
            "in a .txt file two blank lines end a document"
        )
    hashes = random_words(seed, "held out", np.zeros(count, dtype=np.int64), np.arange(count), 1)[:, 0]
    chosen = np.zeros(count, dtype=np.bool_)
    fewest = 2 if count >= 4 else 1
    chosen[np.argsort(hashes, kind="stable")[: min(max(round(count * held_out), fewest), count - fewest)]] = True
    return chosen


def _encoded(documents: Iterable[Document], tokenizer: Tokenizer) -> Iterator[list[list[int]]]:
    """The sentences of each document as token numbers."""
    for texts in _in_portions(documents):
        sentences = [split_sentences(text) for text in texts]
        flat = [sentence for part in sentences for sentence in part]
        encodings = iter(tokenizer.encode_batch_fast(flat, add_special_tokens=False))
        for part in sentences:
            yield [next(encodings).ids for _ in part]


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
