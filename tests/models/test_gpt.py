"""GPT-2's loss is transformers' own, summed; its folder loads there."""

from pathlib import Path

import pytest
import torch

from anybatch.models.gpt import CausalModel, GptSettings, causal_model


def test_the_loss_is_that_of_transformers(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = causal_model(
        GptSettings(vocabulary_size=40, hidden_size=16, num_layers=2, num_heads=2, max_positions=32), seed=0
    ).eval()
    ids = torch.randint(0, 40, (3, 20), generator=torch.Generator().manual_seed(0))
    losses, right = model(ids)
    model.save(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert losses["lm"].item() == pytest.approx(3 * 19 * theirs(input_ids=ids, labels=ids).loss.item(), rel=1e-5)
    assert 0 <= int(right["lm"]) <= 57
    again = CausalModel.load(tmp_path)
    assert torch.equal(again(ids)[0]["lm"], losses["lm"])
    assert causal_model(
        GptSettings(vocabulary_size=40, hidden_size=16, num_layers=2, num_heads=2, max_positions=32), seed=0
    ).gpt.lm_head.weight.equal(model.gpt.lm_head.weight)
    with pytest.raises(ValueError, match="num_heads = 3 does not divide"):
        causal_model(
            GptSettings(vocabulary_size=40, hidden_size=16, num_layers=2, num_heads=3, max_positions=32), seed=0
        )


def test_text_is_gone_on_from_with_the_same_draws_for_the_same_seed() -> None:
    model = causal_model(
        GptSettings(vocabulary_size=40, hidden_size=16, num_layers=2, num_heads=2, max_positions=8), seed=0
    ).eval()
    first = model.continued([5, 6], 30, window=7, allowed=range(10, 40), seed=3)
    assert first == model.continued([5, 6], 30, window=7, allowed=range(10, 40), seed=3)
    assert first != model.continued([5, 6], 30, window=7, allowed=range(10, 40), seed=4)
    assert len(first) == 30
    assert set(first) <= set(range(10, 40))
    # Only the last tokens count, and what the model thinks likely is drawn.
    assert model.continued([9, 5, 6], 9, 2, range(10, 40), 3) == model.continued([5, 6], 9, 2, range(10, 40), 3)
    with torch.no_grad():
        model.gpt.lm_head.weight.zero_()
        model.gpt.transformer.ln_f.bias.fill_(1.0)
        model.gpt.lm_head.weight[12] = 10.0
    assert model.continued([5], 5, window=7, allowed=range(10, 40), seed=0) == [12] * 5
