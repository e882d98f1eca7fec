"""A model folder is read whole, as its files and transformers say, or refused with the tensor that is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AlbertConfig,
    AlbertModel,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForTokenClassification,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    GPT2Config,
    GPT2Model,
    RobertaConfig,
    RobertaModel,
)

from anybatch.errors import InputError
from anybatch.models.bert import PretrainingModel
from anybatch.models.pretrained import fingerprint as weights_fingerprint
from anybatch.models.question_answering import question_answering_model

SHAPE: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": 32,
}  # fmt: skip
DENSE = "bert.encoder.layer.0.output.dense.weight"

State = dict[str, torch.Tensor]


def bert(kind: Any = BertForPreTraining, **changes: Any) -> Any:
    torch.manual_seed(0)
    return kind(BertConfig(**{**SHAPE, **changes}))


def save(folder: Path, change: Callable[[State], State] | None = None, **config: Any) -> Path:
    """A folder of a small BERT whose tensors, or whose config.json, are then changed."""
    bert().save_pretrained(folder)
    file = folder / "model.safetensors"
    if change is not None:
        save_file({name: value.contiguous().clone() for name, value in change(load_file(file)).items()}, file)
    if config:
        written = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**written, **config}))
    return folder


def readers(folder: Path) -> list[Callable[[], Any]]:
    return [lambda: question_answering_model(folder, seed=0), lambda: PretrainingModel.load(folder, seed=0)]


@pytest.mark.parametrize(
    "kind", [BertModel, BertForMaskedLM, BertForPreTraining, BertForQuestionAnswering, BertForTokenClassification]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_encoder_of_any_bert_is_the_file_s_in_fp32(kind: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    bert(kind, num_labels=3 if kind is BertForTokenClassification else 2).to(dtype).save_pretrained(tmp_path)
    written = {name.removeprefix("bert."): value for name, value in load_file(tmp_path / "model.safetensors").items()}
    for read in readers(tmp_path):
        model = read()
        assert {value.dtype for value in model.parameters()} == {torch.float32}
        encoder = model.bert.base_model.state_dict()
        held = [name for name in encoder if not name.startswith("pooler.") or name in written]
        assert len(held) >= 37
        assert all(torch.equal(encoder[name], written[name].float()) for name in held)
    if kind is BertForQuestionAnswering:
        head = question_answering_model(tmp_path).bert.qa_outputs.weight
        assert torch.equal(head, written["qa_outputs.weight"].float())


def test_shards_are_one_model_and_one_fingerprint(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path / "whole")
    bert().save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    shards = sorted((tmp_path / "shards").glob("*.safetensors"))
    assert len(shards) > 1
    for one, other in zip(readers(tmp_path / "whole"), readers(tmp_path / "shards"), strict=True):
        expected, found = one().state_dict(), other().state_dict()
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    before = weights_fingerprint(tmp_path / "shards")
    state = load_file(shards[1])
    state[next(iter(state))].view(-1)[0] += 1
    save_file(state, shards[1])
    assert weights_fingerprint(tmp_path / "shards") != before


def test_a_new_head_is_drawn_from_the_seed_and_an_old_one_must_be_whole(tmp_path: Path) -> None:
    bert(BertModel).save_pretrained(tmp_path / "encoder")
    heads = [PretrainingModel.load(tmp_path / "encoder", seed=seed).bert.cls.state_dict() for seed in (1, 1, 2)]
    name = "predictions.transform.dense.weight"
    assert torch.equal(heads[0][name], heads[1][name])
    assert not torch.equal(heads[0][name], heads[2][name])
    with pytest.raises(InputError, match="no 'cls"):
        PretrainingModel.load(tmp_path / "encoder")
    with pytest.raises(InputError, match="no tensor 'qa_outputs"):
        question_answering_model(tmp_path / "encoder")
    gone = "cls.predictions.transform.dense.bias"
    save(tmp_path / "half", lambda state: {name: value for name, value in state.items() if name != gone})
    with pytest.raises(InputError, match=f"is no .{gone}."):
        PretrainingModel.load(tmp_path / "half", seed=0)


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (lambda state: {"module." + name: value for name, value in state.items()}, {}, "all .* begin with 'module.'"),
        (lambda state: {"_orig_mod." + name: value for name, value in state.items()}, {}, "begin with '_orig_mod.'"),
        (lambda state: {name: value for name, value in state.items() if "layer.1." not in name}, {},
         "there is no 'bert.encoder.layer.1.attention.self.query.weight'"),
        (lambda state: {name: value for name, value in state.items() if name != DENSE}, {}, f"no '{DENSE}'"),
        (lambda state: {**state, DENSE: torch.full((16, 64), torch.nan)}, {}, f"'{DENSE}' holds NaN or infinite"),
        (lambda state: {**state, DENSE: torch.full((16, 64), 1e300, dtype=torch.float64)}, {}, "holds NaN or infinite"),
        (lambda state: {**state, DENSE: torch.zeros(64, 16)}, {}, rf"'{DENSE}' has shape \[64, 16\], .* \[16, 64\]"),
        (lambda state: {**state, DENSE: torch.zeros(16, 64, dtype=torch.int8)}, {}, f"'{DENSE}' is of type I8"),
        (lambda state: {**state, "bert.extra": torch.zeros(2)}, {}, "tensor 'bert.extra' has no place in the bert"),
        (None, {"num_hidden_layers": 1}, "'bert.encoder.layer.1.attention.output.Layer.* and 15 more has no place"),
        (None, {"num_hidden_layers": 3}, "there is no 'bert.encoder.layer.2.attention.self.query.weight'"),
        (None, {"num_hidden_layers": 10**9}, "names 1000000000 layers"),
        (None, {"max_position_embeddings": 16}, r"position_embeddings.weight' has shape \[32, 16\], .* \[16, 16\]"),
        (None, {"vocab_size": 10**12}, r"word_embeddings.weight' has shape \[40, 16\]"),
        (None, {"type_vocab_size": "2"}, "config.json|no readable"),
        (None, {"num_hidden_layers": 0}, "num_hidden_layers = 0: must be a whole number of at least 1"),
        (None, {"architectures": 1e300}, "architectures = 1e.300: must be a list of names"),
        (None, {"type_vocab_size": 1}, "type_vocab_size = 1 .*must be at least 2"),
        (None, {"hidden_act": "none such"}, "no readable bert model"),
        (None, {"is_decoder": True}, "holds a decoder"),
        (None, {"position_embedding_type": "relative_key"}, "position_embedding_type = 'relative_key'"),
        (None, {"quantization_config": {"quant_method": "bitsandbytes"}}, "its weights are quantised"),
        (None, {"model_type": None}, "model of type None; must be 'bert'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_folder_is_one_line(
    change: Callable[[State], State] | None, config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save(tmp_path, change, **config)
    for read in readers(tmp_path):
        with pytest.raises(InputError, match=message) as caught:
            read()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (RobertaConfig(**SHAPE, pad_token_id=0), RobertaModel),
        (ElectraConfig(**SHAPE), ElectraModel),
        (AlbertConfig(**SHAPE, embedding_size=8), AlbertModel),
        (DistilBertConfig(vocab_size=40, dim=16, n_layers=1, n_heads=2, hidden_dim=64), DistilBertModel),
        (GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=1, n_positions=16), GPT2Model),
    ],
)
def test_another_architecture_is_refused_by_its_type(config: Any, kind: Any, tmp_path: Path) -> None:
    kind(config).save_pretrained(tmp_path)
    for read in readers(tmp_path):
        with pytest.raises(InputError, match=f"holds a model of type '{config.model_type}'; must be 'bert'"):
            read()


def test_another_architecture_under_the_name_of_bert_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path, architectures=["RobertaModel"])
    for read in readers(folder):
        with pytest.raises(
            InputError, match=r"was saved from RobertaModel \(architectures in config.json\), which is no"
        ):
            read()
    for architectures in (["BertModel"], ["BertForMaskedLM"], [], None):
        question_answering_model(save(tmp_path / str(architectures), architectures=architectures), seed=0)


def test_no_pickle_is_ever_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path)
    (folder / "model.safetensors").rename(folder / "kept.safetensors")
    torch.save(load_file(folder / "kept.safetensors"), folder / "pytorch_model.bin")

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a pickle was opened")

    monkeypatch.setattr(torch, "load", opened)
    index = folder / "model.safetensors.index.json"
    names = list(load_file(folder / "kept.safetensors"))
    outside = str(folder / "kept.safetensors")
    for name, message in (
        (None, "has no model.safetensors; its .bin file is a pickle"),
        ("pytorch_model.bin", "points to 'pytorch_model.bin'; must be a .safetensors file in the same folder"),
        (outside, "points to .*; must be a .safetensors file in the same folder"),
        ("gone.safetensors", "gone.safetensors: no such file, but model.safetensors.index.json lists it"),
    ):
        if name is not None:
            index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, name)}))
        for read in readers(folder):
            with pytest.raises(InputError, match=message):
                read()


def test_shards_and_their_index_must_agree(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path, max_shard_size="20KB")
    index = tmp_path / "model.safetensors.index.json"
    sound = json.loads(index.read_text())
    first, second = sorted(set(sound["weight_map"].values()))[:2]
    name = next(name for name, file in sound["weight_map"].items() if file == first)
    for weights, message in (
        ({**sound["weight_map"], name: second}, f"{first}: tensor '{name}' is not where"),
        ({key: file for key, file in sound["weight_map"].items() if key != name}, f"tensor '{name}' is not where"),
        ({**sound["weight_map"], "more": first}, f"{first}: tensor 'more' is not where"),
        ([], "has no 'weight_map'"),
    ):
        index.write_text(json.dumps({**sound, "weight_map": weights}))
        with pytest.raises(InputError, match=message):
            question_answering_model(tmp_path, seed=0)
    index.write_text(json.dumps(sound))
    question_answering_model(tmp_path, seed=0)
    bert().save_pretrained(tmp_path / "single")
    (tmp_path / "single" / "model.safetensors").rename(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"holds both model.safetensors and model.safetensors.index.json"):
        question_answering_model(tmp_path, seed=0)


def test_a_vocabulary_head_of_its_own_is_kept(tmp_path: Path) -> None:
    """One that the file unties from the embedding, whatever config.json says of ties."""
    name, bias = "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"
    own = {name: torch.ones(40, 16), bias: torch.zeros(40)}
    for tied in (True, False):
        folder = save(tmp_path / str(tied), lambda state: {**state, **own}, tie_word_embeddings=tied)
        model = PretrainingModel.load(folder).bert
        assert not model.bert.embeddings.word_embeddings.weight.eq(1).any()
        assert model.state_dict()[name].eq(1).all()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    file = save(tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"model.safetensors: no readable safetensors file"):
        question_answering_model(tmp_path, seed=0)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match=r"config.json: must hold a JSON object"):
        question_answering_model(tmp_path, seed=0)
