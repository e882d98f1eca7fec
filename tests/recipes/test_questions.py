"""Answers are predicted where the model is."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anybatch.models.bert import BertSettings, pretraining_model
from anybatch.models.question_answering import untrained_question_answering_model
from anybatch.recipes import questions

RECIPE: Any = SimpleNamespace(
    engine=SimpleNamespace(evaluation_batch_size=2), data=SimpleNamespace(max_answer_length=3)
)


class Windows:
    """Three windows of four tokens, on the CPU as a source has them."""

    num_examples = 3

    def windows(self, first: int, count: int) -> dict[str, Tensor]:
        ids = torch.arange(12).view(3, 4)[first : first + count]
        return {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": torch.ones_like(ids)}


class Elsewhere(nn.Module):
    """A model on another device, which gives scores like one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, device="meta"))
        self.seen: list[Tensor] = []

    def logits(self, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        self.seen += inputs.values()
        scores = torch.zeros(inputs["input_ids"].shape)
        return scores, scores


def test_windows_go_to_the_models_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "decode", lambda source, start, end, **others: {"shape": tuple(start.shape)})
    model: Any = Elsewhere()
    source: Any = Windows()
    assert questions.predict(model, source, RECIPE) == {"shape": (3, 4)}
    assert len(model.seen) == 2 * 3
    assert {value.device.type for value in model.seen} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_gives_the_scores_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[Tensor, Tensor]] = []
    monkeypatch.setattr(questions, "decode", lambda source, start, end, **others: found.append((start, end)) or {})
    shape = BertSettings(vocabulary_size=12, hidden_size=16, num_layers=1, num_heads=2, max_positions=4)
    model = untrained_question_answering_model(pretraining_model(shape, seed=1).bert.config)
    source: Any = Windows()
    for device in ("cpu", "cuda"):
        questions.predict(model.to(device), source, RECIPE)
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-4)
