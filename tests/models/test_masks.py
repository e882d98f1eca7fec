"""The mask that a GPU is given says the same as the one of a CPU, and nothing is read from it on the host."""

import pytest
import torch

from anybatch.models import BertSettings, bert, pretraining_model
from anybatch.models.bert import padding_mask


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
