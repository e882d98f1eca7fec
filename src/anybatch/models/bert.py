"""BERT for pretraining: masked words and next sentence, with a vocabulary head that sees the masked positions alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from anybatch.errors import InputError

Sums = dict[str, Tensor]


@dataclass(frozen=True)
class BertSettings:
    """The shape of a BERT encoder; `dropout` serves the hidden states and the attention alike."""

    vocabulary_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    max_positions: int
    dropout: float = 0.0


class PretrainingModel(nn.Module):
    """BERT with the heads of its two pretraining tasks, around transformers' `BertForPreTraining`.

    The vocabulary head costs as much as several encoder layers; it is evaluated on the M masked positions only,
    never on all B * S of them.
    """

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        # transformers is not typed as finely as its models are built.
        self.bert: Any = bert

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        attention_mask: Tensor,
        masked_positions: Tensor,
        masked_labels: Tensor,
        next_sentence_label: Tensor,
    ) -> tuple[Sums, Sums]:
        """Sums, not means, so that the caller can divide by the count of the whole global batch.

        Args:
            input_ids, token_type_ids, attention_mask: int64[B, S].
            masked_positions: int64[M], index b * S + s of each masked token; masked_labels: int64[M], its true id.
            next_sentence_label: int64[B], 0 where the second segment really follows the first, 1 where it is random.

        Returns:
            ({"mlm": loss sum over M, "nsp": loss sum over B}, {"mlm": correct of M, "nsp": correct of B}); the second
            is empty in training mode.
        """
        encoded = self.bert.bert(input_ids=input_ids, token_type_ids=token_type_ids, attention_mask=attention_mask)
        hidden = encoded.last_hidden_state.flatten(0, 1)[masked_positions]
        words = self.bert.cls.predictions(hidden)
        relation = self.bert.cls.seq_relationship(encoded.pooler_output)
        losses = {
            "mlm": cross_entropy(words.float(), masked_labels, reduction="sum"),
            "nsp": cross_entropy(relation.float(), next_sentence_label, reduction="sum"),
        }
        if self.training:
            return losses, {}
        return losses, {
            "mlm": (words.argmax(-1) == masked_labels).sum(),
            "nsp": (relation.argmax(-1) == next_sentence_label).sum(),
        }

    def save(self, folder: Path) -> None:
        """Writes a Hugging Face folder: `AutoModel.from_pretrained(folder)` loads the encoder."""
        self.bert.save_pretrained(folder)

    @classmethod
    def load(cls, folder: Path) -> "PretrainingModel":
        """The model in a folder that `save` wrote."""
        from transformers import BertForPreTraining

        quiet_transformers()
        return cls(read_pretrained(BertForPreTraining, folder))


def pretraining_model(settings: BertSettings, seed: int) -> PretrainingModel:
    """A freshly initialised model; the same seed gives the same weights.

    Raises:
        ValueError: `num_heads` does not divide `hidden_size`.
    """
    from transformers import BertConfig, BertForPreTraining

    if settings.hidden_size % settings.num_heads:
        raise ValueError(
            f"model.num_heads = {settings.num_heads} does not divide model.hidden_size = {settings.hidden_size}"
        )
    quiet_transformers()
    config = BertConfig(
        vocab_size=settings.vocabulary_size,
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        intermediate_size=4 * settings.hidden_size,
        max_position_embeddings=settings.max_positions,
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=settings.dropout,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PretrainingModel(BertForPreTraining(config))


def pretraining_flops(settings: BertSettings, sequence_length: int, masking_rate: float) -> float:
    """Floating-point operations of a forward and a backward pass on one sequence of S tokens.

        3 * 2 * (L (12 H^2 S + 2 H S^2) + M (H^2 + H V))      M = masking rate * S masked positions, V the vocabulary

    A matrix product of a x b by b x c takes 2abc; the backward pass takes twice the forward one. Embeddings,
    normalisation, and the pooler with the next-sentence head are left out: they are small.
    """
    hidden, length = settings.hidden_size, sequence_length
    layers = settings.num_layers * (12 * hidden**2 * length + 2 * hidden * length**2)
    head = masking_rate * length * (hidden**2 + hidden * settings.vocabulary_size)
    return 6.0 * (layers + head)


def read_pretrained(kind: Any, folder: Path) -> Any:
    """The model of transformers' class `kind` in `folder`; InputError where it cannot be read. No pickle is opened."""
    try:
        return kind.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    # A damaged or foreign folder can make transformers fail in any way.
    except Exception as error:
        raise InputError(f"{folder}: no readable BERT model: {' '.join(str(error).split())[:200]}") from None


def quiet_transformers() -> None:
    """Keeps transformers' own progress bars and load reports off the terminal: ours tell what is going on."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
