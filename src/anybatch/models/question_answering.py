"""BERT that marks the first and the last token of an answer in a passage."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from anybatch.models.bert import Sums, check_segments, kind_of, num_positions, padding_mask, read_encoder_config
from anybatch.models.building import quiet_transformers, seeded
from anybatch.models.pretrained import read_model


class QuestionAnsweringModel(nn.Module):
    """A span head on an encoder, around transformers' `BertForQuestionAnswering` or its equivalent with Pre-LN."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert: Any = bert

    @property
    def max_positions(self) -> int:
        """The longest window, in tokens, for which the encoder has positions."""
        return num_positions(self.bert.config)

    @property
    def vocabulary_size(self) -> int:
        """The number of tokens for which the encoder has an embedding."""
        return int(self.bert.config.vocab_size)

    def logits(self, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Returns start and end scores, float[B, S] each; padding scores minus infinity."""
        mask = padding_mask(attention_mask)
        output = self.bert(input_ids=input_ids, token_type_ids=token_type_ids, attention_mask=mask)
        padding = attention_mask == 0
        start = output.start_logits.float().masked_fill(padding, -torch.inf)
        end = output.end_logits.float().masked_fill(padding, -torch.inf)
        return start, end

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        attention_mask: Tensor,
        start_positions: Tensor,
        end_positions: Tensor,
    ) -> tuple[Sums, Sums]:
        """Returns the mean of the start's and the end's cross-entropy, summed over B windows; positions int64[B].

        Returns:
            ({"span": loss sum}, {"span": windows with both ends right}); the second is empty in training mode.
        """
        start, end = self.logits(input_ids, token_type_ids, attention_mask)
        loss = cross_entropy(start, start_positions, reduction="sum") + cross_entropy(
            end, end_positions, reduction="sum"
        )
        losses = {"span": loss / 2}
        if self.training:
            return losses, {}
        right = (start.argmax(-1) == start_positions) & (end.argmax(-1) == end_positions)
        return losses, {"span": right.sum()}

    def save(self, folder: Path) -> None:
        """Writes a Hugging Face folder: `AutoModelForQuestionAnswering.from_pretrained(folder)` loads it."""
        self.bert.save_pretrained(folder)


def question_answering_model(folder: Path, seed: int | None = None) -> QuestionAnsweringModel:
    """Loads the encoder in a Hugging Face `folder` with its span head.

    `seed`: draws a new head if the folder has none; without a seed, such a folder is an error.

    Raises:
        InputError: the folder holds no encoder that transformers can read, or one with a missing or surplus tensor.
    """
    quiet_transformers()
    config = read_encoder_config(folder)
    check_segments(folder, config)
    # A classifier's folder has as many labels as classes; a span has two ends.
    config.num_labels = 2
    with seeded(seed or 0):
        kind, new = kind_of(config.model_type, "ForQuestionAnswering"), () if seed is None else ("qa_outputs.",)
        return QuestionAnsweringModel(read_model(kind, folder, config, new))


def untrained_question_answering_model(config: Any) -> QuestionAnsweringModel:
    """Makes a model of the shape in `config`, transformers' configuration of a BERT, with new weights."""
    return QuestionAnsweringModel(kind_of(config.model_type, "ForQuestionAnswering")(config))
