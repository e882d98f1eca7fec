"""BERT for pretraining: masked words, whose head sees their positions alone, and a relation of sentences."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from anybatch.errors import InputError
from anybatch.models.building import check_heads, quiet_transformers, read_pretrained, seeded

Sums = dict[str, Tensor]


@dataclass(frozen=True)
class BertSettings:
    """The shape of a BERT encoder; `dropout` serves the hidden states and the attention alike.

    `relation`: whether there is a head, and a pooler under it, that tells how two sentences are related.
    """

    vocabulary_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    max_positions: int
    dropout: float = 0.0
    relation: bool = True


class PretrainingModel(nn.Module):
    """BERT with the heads of its pretraining tasks, around transformers' `BertForPreTraining`, or `BertForMaskedLM`
    where no relation of sentences is learned.

    The vocabulary head costs as much as several encoder layers; it is evaluated on the M masked positions only,
    never on all B * S of them.
    """

    def __init__(self, bert: nn.Module, relation: str = "nsp") -> None:
        super().__init__()
        # transformers is not typed as finely as its models are built.
        self.bert: Any = bert
        self.relation = relation

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        attention_mask: Tensor,
        masked_positions: Tensor,
        masked_labels: Tensor,
        next_sentence_label: Tensor | None = None,
        position_ids: Tensor | None = None,
        first_positions: Tensor | None = None,
    ) -> tuple[Sums, Sums]:
        """Sums, not means, so that the caller can divide by the count of the whole global batch.

        Args:
            input_ids, token_type_ids, attention_mask: int64[B, S].
            masked_positions: int64[M], index b * S + s of each masked token; masked_labels: int64[M], its true id.
            next_sentence_label: int64[B], 0 where the second segment really follows the first; none, no such loss.
            position_ids, first_positions: of packed sequences (see data/packing.py), int64[R, S] and int64[B];
                attention_mask then numbers the sequences of a row, and none sees another.

        Returns:
            ({"mlm": loss sum over M, "nsp": loss sum over B}, {"mlm": correct of M, "nsp": correct of B}); the second
            is empty in training mode.
        """
        mask = attention_mask if first_positions is None else block_diagonal(attention_mask)
        encoded = self.bert.bert(
            input_ids=input_ids, token_type_ids=token_type_ids, attention_mask=mask, position_ids=position_ids
        )
        hidden = encoded.last_hidden_state.flatten(0, 1)
        words = self.bert.cls.predictions(hidden[masked_positions])
        losses = {"mlm": cross_entropy(words.float(), masked_labels, reduction="sum")}
        right = {} if self.training else {"mlm": (words.argmax(-1) == masked_labels).sum()}
        if next_sentence_label is not None:
            pooled = encoded.pooler_output
            if first_positions is not None:
                pooled = self.bert.bert.pooler(hidden[first_positions][:, None])
            relation = self.bert.cls.seq_relationship(pooled)
            losses[self.relation] = cross_entropy(relation.float(), next_sentence_label, reduction="sum")
            if not self.training:
                right[self.relation] = (relation.argmax(-1) == next_sentence_label).sum()
        return losses, right

    def save(self, folder: Path) -> None:
        """Writes a Hugging Face folder: `AutoModel.from_pretrained(folder)` loads the encoder."""
        self.bert.save_pretrained(folder)

    @classmethod
    def load(cls, folder: Path, relation: str = "nsp") -> "PretrainingModel":
        """The model in a Hugging Face folder, such as `save` writes; heads that it lacks are new.

        Raises:
            InputError: the folder holds no model that transformers can read, or one that is not a BERT.
        """
        from transformers import AutoConfig, BertForMaskedLM, BertForPreTraining

        quiet_transformers()
        config = read_pretrained(AutoConfig, folder)
        if config.model_type != "bert":
            raise InputError(f"{folder}: holds a model of type {config.model_type!r}; must be a BERT")
        without_relation = "BertForMaskedLM" in (config.architectures or [])
        return cls(read_pretrained(BertForMaskedLM if without_relation else BertForPreTraining, folder), relation)


def pretraining_model(settings: BertSettings, seed: int, relation: str = "nsp") -> PretrainingModel:
    """A freshly initialised model; the same seed gives the same weights.

    Raises:
        ValueError: `num_heads` does not divide `hidden_size`.
    """
    from transformers import BertConfig, BertForMaskedLM, BertForPreTraining

    check_heads(settings.num_heads, settings.hidden_size)
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
    with seeded(seed):
        return PretrainingModel(BertForPreTraining(config) if settings.relation else BertForMaskedLM(config), relation)


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


def block_diagonal(sequence_numbers: Tensor) -> Tensor:
    """Which token may attend to which: those of the same sequence, bool[R, 1, S, S] from int64[R, S].

    Padding attends to padding: a row of scores without a single finite one would be no number.
    """
    return (sequence_numbers[:, None, :, None] == sequence_numbers[:, None, None, :]).contiguous()
