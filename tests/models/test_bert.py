"""Packed rows give the losses and gradients of padded ones; folders of transformers are read and written."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anybatch.data.packing import pack
from anybatch.errors import InputError
from anybatch.models import bert
from anybatch.models.bert import BertSettings, PretrainingModel, padding_mask, pretraining_model
from anybatch.models.question_answering import question_answering_model

SETTINGS = BertSettings(vocabulary_size=40, hidden_size=16, num_layers=2, num_heads=2, max_positions=32)


def padded(rng: np.random.Generator, count: int = 7, width: int = 24) -> dict[str, np.ndarray]:
    """Sequences of 3 to 24 tokens, one or more masked in each."""
    lengths = rng.integers(3, width + 1, count)
    mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
    ids = np.where(mask, rng.integers(5, 40, (count, width)), 0)
    masked = np.sort(np.concatenate([row * width + rng.permutation(lengths[row])[:2] for row in range(count)]))
    return {
        "input_ids": ids,
        "token_type_ids": mask * rng.integers(0, 2, (count, width)),
        "attention_mask": mask,
        "masked_positions": masked,
        "masked_labels": rng.integers(5, 40, len(masked)),
    }


def losses(model: PretrainingModel, inputs: dict[str, np.ndarray], label: np.ndarray | None) -> dict[str, torch.Tensor]:
    named: dict[str, Any] = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in inputs.items()}
    if label is not None:
        named["next_sentence_label"] = torch.from_numpy(label)
    return dict(model(**named)[0])


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("relation", [True, False])
def test_packed_sequences_do_not_see_each_other(relation: bool, pre_norm: bool) -> None:
    rng = np.random.default_rng(0)
    settings = replace(SETTINGS, relation=relation, pre_norm=pre_norm)
    model = pretraining_model(settings, seed=0).double()
    inputs, label = padded(rng), rng.integers(0, 2, 7) if relation else None
    gradients = []
    packed = pack(inputs)
    assert len(packed["input_ids"]) < 7
    for each in (inputs, packed):
        found = losses(model, each, label)
        assert set(found) == ({"mlm", "nsp"} if relation else {"mlm"})
        torch.stack(list(found.values())).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
        model.zero_grad()
        if each is inputs:
            expected = found
    for name, value in found.items():
        assert value.item() == pytest.approx(expected[name].item(), rel=1e-6)
    assert len(gradients[0]) == len(gradients[1]) == len(list(model.parameters()))
    assert all(torch.allclose(one, other, rtol=1e-5, atol=1e-7) for one, other in zip(*gradients, strict=True))


def test_a_folder_of_transformers_is_where_a_run_can_start(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM, BertForPreTraining, BertModel, GPT2Config, GPT2LMHeadModel

    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=32,
    )  # fmt: skip
    rng = np.random.default_rng(1)
    inputs, label = padded(rng), rng.integers(0, 2, 7)
    for kind in (BertForPreTraining, BertForMaskedLM):
        theirs = kind(config).eval()
        theirs.save_pretrained(tmp_path / kind.__name__)
        model = PretrainingModel.load(tmp_path / kind.__name__, seed=0).eval()
        given = {name: torch.from_numpy(inputs[name]) for name in ("input_ids", "token_type_ids", "attention_mask")}
        output = theirs(**given)
        logits = output.prediction_logits if kind is BertForPreTraining else output.logits
        chosen = logits.flatten(0, 1)[torch.from_numpy(inputs["masked_positions"])]
        expected = torch.nn.functional.cross_entropy(chosen, torch.from_numpy(inputs["masked_labels"]), reduction="sum")
        found = losses(model, inputs, label if kind is BertForPreTraining else None)
        assert found["mlm"].item() == pytest.approx(expected.item(), rel=1e-5)
        model.save(tmp_path / "back")
        again = BertModel.from_pretrained(tmp_path / "back")
        assert torch.equal(again.embeddings.word_embeddings.weight, theirs.bert.embeddings.word_embeddings.weight)
    GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=1, n_positions=16)).save_pretrained(
        tmp_path / "gpt2"
    )
    with pytest.raises(InputError, match="gpt2: holds a model of type 'gpt2'; must be 'bert' or"):
        PretrainingModel.load(tmp_path / "gpt2")


@pytest.mark.parametrize("relation", [True, False])
def test_a_pre_norm_folder_is_one_of_transformers(relation: bool, tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    settings = replace(SETTINGS, relation=relation, pre_norm=True)
    model = pretraining_model(settings, seed=0).eval()
    assert model.settings == settings
    model.save(tmp_path)
    again = PretrainingModel.load(tmp_path).eval()
    assert again.settings == settings
    rng = np.random.default_rng(1)
    inputs, label = padded(rng), rng.integers(0, 2, 7) if relation else None
    found = losses(model, inputs, label)
    assert {name: value.item() for name, value in losses(again, inputs, label).items()} == {
        name: value.item() for name, value in found.items()
    }
    theirs = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    given = {name: torch.from_numpy(inputs[name]) for name in ("input_ids", "token_type_ids", "attention_mask")}
    logits = theirs(**given).logits.flatten(0, 1)[torch.from_numpy(inputs["masked_positions"])]
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(inputs["masked_labels"]), reduction="sum")
    assert found["mlm"].item() == pytest.approx(expected.item(), rel=1e-5)
    answering = question_answering_model(tmp_path, seed=0)
    assert answering.max_positions == 32
    assert torch.equal(
        answering.bert.base_model.embeddings.word_embeddings.weight,
        model.bert.base_model.embeddings.word_embeddings.weight,
    )


def test_pre_norm_layers_are_those_of_torch_with_norm_first() -> None:
    model = pretraining_model(replace(SETTINGS, num_layers=1, pre_norm=True), seed=0).double().eval()
    encoder = model.bert.base_model
    (layer,) = encoder.encoder.layer
    torch_s = torch.nn.TransformerEncoderLayer(
        16, 2, 64, activation="gelu", layer_norm_eps=1e-12, batch_first=True, norm_first=True, dtype=torch.float64
    ).eval()
    attention = layer.attention.self
    parts = {
        "self_attn.in_proj": [attention.query, attention.key, attention.value],
        "self_attn.out_proj.": [layer.attention.output.dense],
        "linear1.": [layer.intermediate.dense],
        "linear2.": [layer.output.dense],
        "norm1.": [layer.attention.LayerNorm],
        "norm2.": [layer.intermediate.LayerNorm],
    }
    torch_s.load_state_dict(
        {
            f"{name if name.endswith('.') else name + '_'}{kind}": torch.cat([getattr(each, kind) for each in modules])
            for name, modules in parts.items()
            for kind in ("weight", "bias")
        }
    )
    ids = torch.randint(5, 40, (3, 20), generator=torch.Generator().manual_seed(0))
    embedded = encoder.embeddings(input_ids=ids, token_type_ids=torch.zeros_like(ids))
    found = encoder(input_ids=ids, token_type_ids=torch.zeros_like(ids)).last_hidden_state
    assert torch.allclose(found, encoder.LayerNorm(torch_s(embedded)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_bf16_is_near_fp32(pre_norm: bool) -> None:
    rng = np.random.default_rng(2)
    model = pretraining_model(replace(SETTINGS, pre_norm=pre_norm), seed=0).eval()
    inputs, label = padded(rng), rng.integers(0, 2, 7)
    exact = losses(model, pack(inputs), label)
    with torch.autocast("cpu", torch.bfloat16):
        rough = losses(model, pack(inputs), label)
    assert all(rough[name].item() == pytest.approx(exact[name].item(), rel=2e-2) for name in exact)


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("padded", [0, 5])
def test_a_finished_mask_gives_what_the_unfinished_one_does(
    monkeypatch: pytest.MonkeyPatch, pre_norm: bool, padded: int
) -> None:
    model = pretraining_model(
        BertSettings(
            vocabulary_size=50, hidden_size=16, num_layers=2, num_heads=2, max_positions=24, pre_norm=pre_norm
        ),
        seed=1,
    ).eval()
    mask = torch.ones(3, 20, dtype=torch.int64)
    mask[1, 20 - padded :] = 0
    inputs = {
        "input_ids": torch.arange(60).view(3, 20) % 50,
        "token_type_ids": torch.zeros_like(mask),
        "attention_mask": mask,
        "masked_positions": torch.tensor([1, 22, 45]),
        "masked_labels": torch.tensor([4, 5, 6]),
    }
    plain = model(**inputs)[0]["mlm"]
    monkeypatch.setattr(bert, "padding_mask", lambda mask: mask[:, None, None, :].bool())
    torch.testing.assert_close(model(**inputs)[0]["mlm"], plain, rtol=1e-5, atol=1e-6)


def test_only_a_gpu_is_given_a_finished_mask() -> None:
    assert padding_mask(torch.ones(2, 3, dtype=torch.int64)).shape == (2, 3)
    finished = padding_mask(torch.ones(2, 3, dtype=torch.int64, device="meta"))
    assert (finished.shape, finished.dtype) == ((2, 1, 1, 3), torch.bool)
