"""Whole words are masked as a whole, in the share asked for; each example by its own numbers alone."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from anybatch.data.mlm import MlmSettings, PretrainingSource
from anybatch.data.shards import Shards
from anybatch.data.vocabulary import continued_ids
from anybatch.errors import InputError

Write = Callable[..., Shards]


def epoch_of(source: PretrainingSource) -> dict[str, torch.Tensor]:
    examples = np.arange(source.num_examples)
    return dict(source.batch(np.zeros_like(examples), examples).inputs)


def masked_and_true(inputs: dict[str, torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Which places are to be predicted, bool[B, S], and the ids before masking."""
    ids = inputs["input_ids"].clone().reshape(-1)
    ids[inputs["masked_positions"]] = inputs["masked_labels"]
    chosen = torch.zeros(ids.shape, dtype=torch.bool)
    chosen[inputs["masked_positions"]] = True
    return chosen.reshape(inputs["input_ids"].shape).numpy(), ids.reshape(inputs["input_ids"].shape).numpy()


def words_of(row: np.ndarray, continued: np.ndarray) -> list[list[int]]:
    """The columns of each word of a row of tokens, as a reader would find them."""
    words: list[list[int]] = []
    for column, token in enumerate(row.tolist()):
        if token < 5:
            words.append([])
        elif continued[token] and words and words[-1]:
            words[-1].append(column)
        else:
            words.append([column])
    return [word for word in words if word]


def test_a_word_is_masked_as_a_whole(many: Shards, tokenizer: Tokenizer) -> None:
    source = PretrainingSource(many, tokenizer, 64, seed=3, settings=MlmSettings(whole_words=True))
    inputs = epoch_of(source)
    chosen, ids = masked_and_true(inputs)
    continued = continued_ids(tokenizer)
    assert 20 < continued.sum() < 380
    counts = np.clip(np.round((ids >= 5).sum(1) * 0.15), 1, None)
    # A word that does not fit leaves its place to a later one: the count is seldom missed by much.
    assert (chosen.sum(1) <= counts).all()
    assert chosen.sum() > 0.97 * counts.sum()
    parted = 0
    for row in range(0, len(ids), 7):
        masks = [chosen[row, word] for word in words_of(ids[row], continued)]
        if any(mask.any() and not mask.all() for mask in masks):
            # Only a first word longer than the whole count is masked in part.
            assert chosen[row].sum() == counts[row]
            parted += 1
    assert parted < 0.02 * len(ids)
    share = chosen.sum(0)[5:55] / (ids >= 5).sum(0)[5:55]
    assert share.max() - share.min() < 0.04, "every place is as likely"


def test_whole_words_depend_on_the_example_alone(many: Shards, tokenizer: Tokenizer) -> None:
    settings = MlmSettings(whole_words=True, short_seq_prob=0.5)
    source = PretrainingSource(many, tokenizer, 48, seed=3, settings=settings, max_predictions=7)
    together = source.batch(np.arange(9), np.arange(9) * 31)
    assert together.num_targets["mlm"] <= 7 * 9
    for row in range(9):
        alone = source.batch(np.array([row]), np.array([row * 31]))
        assert torch.equal(alone.inputs["input_ids"][0], together.inputs["input_ids"][row])


def test_a_word_longer_than_the_count_is_masked_in_part(write_shards: Write, tokenizer: Tokenizer) -> None:
    first = int(np.flatnonzero(continued_ids(tokenizer))[0])
    source = PretrainingSource(
        write_shards([[[6, *[first] * 30]]] * 2), tokenizer, 40, 0, settings=MlmSettings(whole_words=True)
    )
    inputs = epoch_of(source)
    assert inputs["masked_positions"].numel() == 2 * round(31 * 0.15)


def test_short_sequences(many: Shards, tokenizer: Tokenizer) -> None:
    lengths = {
        share: epoch_of(PretrainingSource(many, tokenizer, 64, seed=5, settings=MlmSettings(short_seq_prob=share)))[
            "attention_mask"
        ].sum(1)
        for share in (0.0, 0.1, 1.0)
    }
    long = lengths[0.0] > 40
    changed, total = int((lengths[0.1] < lengths[0.0])[long].sum()), int(long.sum())
    assert abs(changed - 0.1 * total) < 5 * (0.09 * total) ** 0.5 + 0.02 * total
    assert (lengths[1.0] >= 5).all()
    # Uniform from 2 tokens to all, beside the three marks.
    expected = (2 + lengths[0.0][long].float() - 3) / 2 + 3
    assert abs(float((lengths[1.0][long] - expected).mean())) < 1.0


def test_sentence_order_exchanges_the_parts(many: Shards, tokenizer: Tokenizer) -> None:
    settings = MlmSettings(masking_rate=0.01, objective="sentence_order")
    ordered = PretrainingSource(many, tokenizer, 64, 5, settings=settings, max_predictions=1)
    batch = ordered.batch(np.zeros(400, dtype=np.int64), np.arange(400))
    assert set(batch.num_targets) == {"mlm", "sop"}
    _, ids = masked_and_true(dict(batch.inputs))
    labels = batch.inputs["next_sentence_label"].numpy()
    assert 140 < labels.sum() < 260
    whole = PretrainingSource(
        many, tokenizer, 63, 5, settings=replace(settings, objective="full_sentences"), max_predictions=1
    )
    _, runs = masked_and_true(epoch_of(whole))
    text = [row[row >= 5].tolist() for row in runs]
    for row, label in zip(ids[:200], labels[:200], strict=True):
        first, second = np.flatnonzero(row == 3)
        parts = [row[1:first].tolist(), row[first + 1 : second].tolist()]
        assert parts[label] + parts[1 - label] in text


def test_full_sentences_have_one_separator(many: Shards, tokenizer: Tokenizer) -> None:
    source = PretrainingSource(many, tokenizer, 64, 5, settings=MlmSettings(objective="full_sentences"))
    batch = source.batch(np.zeros(300, dtype=np.int64), np.arange(300))
    assert set(batch.num_targets) == {"mlm"}
    assert "next_sentence_label" not in batch.inputs
    _, ids = masked_and_true(dict(batch.inputs))
    assert ((ids == 3).sum(1) == 1).all()
    assert not batch.inputs["token_type_ids"].any()
    assert int(batch.inputs["attention_mask"].sum(1).max()) == 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "guess"}, "objective = 'guess': must be one of next_sentence, sentence_order, full_sentences"),
        ({"short_seq_prob": 1.5}, r"short_seq_prob = 1.5: must lie in \[0, 1\]"),
    ],
)
def test_wrong_settings_are_named(many: Shards, tokenizer: Tokenizer, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PretrainingSource(many, tokenizer, 32, 0, settings=MlmSettings(**options))
