"""Inspects prepared data: how much there is, how well the vocabulary covers it, and what a model will see."""

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from anybatch.data import vocabulary
from anybatch.data.mlm import PretrainingSource
from anybatch.data.prepare import HELD_OUT, TRAIN, tokenizer_of
from anybatch.data.shards import Shards, open_shards
from anybatch.errors import InputError

_NO_LABEL = -1


def summary(folder: Path, *, num_examples: int = 3, seq_length: int = 64) -> dict[str, Any]:
    """Reads everything in a folder that `prepare` wrote, and checks it against its checksums.

    Returns:
        vocabulary_size; for train and held_out, counts, lengths in tokens, unknown_share, the share of [UNK] in them,
        and document_lengths, the number of documents by length: the entry n (1, 2, 4, 8, ...) counts those of n to
        2n - 1 tokens; examples, a few pretraining examples in words, as the model sees them, with [seen→label] if it
        must predict.

    Raises:
        InputError: the folder is not such a folder, or a file in it is missing, damaged, or does not match the
            vocabulary.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; `anybatch data prepare` makes one")
    tokenizer = tokenizer_of(folder)
    unknown = vocabulary.special_ids(tokenizer)["[UNK]"]
    parts, opened = {}, {}
    for name in (TRAIN, HELD_OUT):
        shards = opened[name] = open_shards(folder / name)
        shards.check_vocabulary(tokenizer)
        if not shards.num_documents:
            raise InputError(f"{folder / name}: holds no document; run `anybatch data prepare` again with more text")
        shards.verify()
        parts[name] = _summarize(shards, unknown)
    source = PretrainingSource(opened[TRAIN], tokenizer, seq_length, seed=0)
    count = min(num_examples, source.num_examples)
    inputs = source.batch(np.zeros(count, dtype=np.int64), np.arange(count) * source.num_examples // count).inputs
    labels = np.full(inputs["input_ids"].shape, _NO_LABEL)
    labels.reshape(-1)[inputs["masked_positions"].numpy()] = inputs["masked_labels"].numpy()
    examples = [
        _in_words(tokenizer, ids[mask == 1].tolist(), row.tolist())
        for ids, mask, row in zip(inputs["input_ids"], inputs["attention_mask"], labels, strict=True)
    ]
    return {"vocabulary_size": tokenizer.get_vocab_size(), **parts, "examples": examples}


def _in_words(tokenizer: Tokenizer, ids: list[int], labels: list[int]) -> str:
    """Returns the text of tokens, with [seen→label] in place of each token to predict."""
    words: list[str] = []
    for is_predicted, group in groupby(zip(ids, labels, strict=False), key=lambda pair: pair[1] != _NO_LABEL):
        if is_predicted:
            words += [f"[{_name(tokenizer, seen)}→{_name(tokenizer, label)}]" for seen, label in group]
        else:
            words.append(tokenizer.decode([seen for seen, _ in group], skip_special_tokens=False))
    return vocabulary.gap(tokenizer).join(words)


def _name(tokenizer: Tokenizer, number: int) -> str:
    return str(tokenizer.id_to_token(number)).replace("[MASK]", "MASK").replace(" ", "␣")


def _summarize(shards: Shards, unknown: int) -> dict[str, Any]:
    sentence_lengths = np.concatenate([np.diff(part.sentence_ends, prepend=0) for part in shards.parts])
    document_lengths = np.concatenate(
        [np.diff(part.sentence_ends[part.document_ends - 1], prepend=0) for part in shards.parts]
    )
    return {
        "documents": shards.num_documents,
        "sentences": shards.num_sentences,
        "tokens": shards.num_tokens,
        "median_sentence_length": float(np.median(sentence_lengths)),
        "longest_sentence": int(sentence_lengths.max()),
        "median_document_length": float(np.median(document_lengths)),
        "unknown_share": sum(int((part.tokens == unknown).sum()) for part in shards.parts) / shards.num_tokens,
        "document_lengths": _by_powers_of_two(document_lengths),
    }


def _by_powers_of_two(lengths: NDArray[np.int64]) -> dict[int, int]:
    """Returns the number of lengths in [2^k, 2^(k+1)), by 2^k, from the smallest to the largest k that occurs."""
    powers, counts = np.unique(np.floor(np.log2(lengths)).astype(np.int64), return_counts=True)
    found = dict(zip(powers.tolist(), counts.tolist(), strict=True))
    return {1 << power: found.get(power, 0) for power in range(min(found), max(found) + 1)}
