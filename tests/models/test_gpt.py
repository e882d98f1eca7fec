"""GPT-2's loss is transformers' own, summed; its folder loads there."""

from pathlib import Path

import pytest
import torch

from anybatch.models import CausalModel, GptSettings, causal_model


def test_the_loss_is_that_of_transformers(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = causal_model(GptSettings(40, 16, 2, 2, 32), seed=0).eval()
    ids = torch.randint(0, 40, (3, 20), generator=torch.Generator().manual_seed(0))
    losses, right = model(ids)
    model.save(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert losses["lm"].item() == pytest.approx(3 * 19 * theirs(input_ids=ids, labels=ids).loss.item(), rel=1e-5)
    assert 0 <= int(right["lm"]) <= 57
    again = CausalModel.load(tmp_path)
    assert torch.equal(again(ids)[0]["lm"], losses["lm"])
    assert causal_model(GptSettings(40, 16, 2, 2, 32), seed=0).gpt.lm_head.weight.equal(model.gpt.lm_head.weight)
    with pytest.raises(ValueError, match="num_heads = 3 does not divide"):
        causal_model(GptSettings(40, 16, 2, 3, 32), seed=0)
