"""Packed sequences are the same sequences, each in one row, none over another."""

from dataclasses import replace

import numpy as np
import torch
from tokenizers import Tokenizer

from anybatch.data.mlm import MlmSettings, PretrainingSource
from anybatch.data.shards import Shards


def sequences(inputs: dict[str, torch.Tensor], flat_first: torch.Tensor | None) -> list[tuple[list[int], ...]]:
    """(ids, types, positions to predict, labels) of each example, in the order of the examples."""
    ids, types, mask = (inputs[name].numpy() for name in ("input_ids", "token_type_ids", "attention_mask"))
    width = ids.shape[1]
    masked, labels = inputs["masked_positions"].numpy(), inputs["masked_labels"].numpy()
    firsts = np.arange(len(ids)) * width if flat_first is None else flat_first.numpy()
    found = []
    for first in firsts.tolist():
        row, column = divmod(first, width)
        columns = np.flatnonzero(mask[row] == mask[row, column])
        assert columns[0] == column
        assert (np.diff(columns) == 1).all()
        mine = (masked >= first) & (masked < first + len(columns))
        found.append(
            (
                ids[row, columns].tolist(),
                types[row, columns].tolist(),
                (masked[mine] - first).tolist(),
                labels[mine].tolist(),
            )
        )
    return found


def test_packing_changes_no_example(many: Shards, tokenizer: Tokenizer) -> None:
    padded_settings = MlmSettings(short_seq_prob=0.7, whole_words=True)
    plain, packed = (
        PretrainingSource(many, tokenizer, 64, 1, settings=replace(padded_settings, packed=packed))
        for packed in (False, True)
    )
    numbers = np.zeros(300, dtype=np.int64), np.arange(300) * 5
    padded, rows = plain.batch(*numbers), packed.batch(*numbers)
    inputs = dict(rows.inputs)
    assert sequences(inputs, inputs["first_positions"]) == sequences(dict(padded.inputs), None)
    assert rows.num_targets == padded.num_targets
    assert torch.equal(rows.inputs["next_sentence_label"], padded.inputs["next_sentence_label"])
    assert len(inputs["input_ids"]) < 0.75 * 300
    assert (inputs["attention_mask"] > 0).float().mean() > 0.9
    assert int((inputs["attention_mask"] > 0).sum()) == int(padded.inputs["attention_mask"].sum())
    assert (np.diff(inputs["masked_positions"].numpy()) > 0).all()
    begins = inputs["position_ids"].reshape(-1)[inputs["first_positions"]]
    assert not begins.any()
    assert (inputs["input_ids"].reshape(-1)[inputs["first_positions"]] == 2).all()
