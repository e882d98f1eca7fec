"""BERT for pretraining: masked words, whose head reads only the masked positions, and a relation of sentences."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from anybatch.errors import InputError
from anybatch.models.building import Positions, TransformerSettings, check_heads, quiet_transformers, seeded
from anybatch.models.pretrained import read_config, read_model

Sums = dict[str, Tensor]

# transformers' name for a BERT with Pre-LN.
PRE_NORM = "roberta-prelayernorm"
# The ends of the names of transformers' classes.
Head = Literal["ForPreTraining", "ForMaskedLM", "ForQuestionAnswering"]
# The beginnings of the names of tensors that pretraining adds to an encoder, besides the pooler's.
_HEADS = ("cls.predictions.", "cls.seq_relationship.", "lm_head.", "seq_relationship.")


@dataclass(frozen=True, kw_only=True)
class EncoderSettings(TransformerSettings):
    """The shape of a BERT encoder."""

    max_positions: Positions = 512
    """The longest sequence, in tokens."""
    pre_norm: bool = False
    """Normalize before attention and MLP (Pre-LN), not after them; very large batches may need it."""


@dataclass(frozen=True, kw_only=True)
class BertSettings(EncoderSettings):
    """A BERT encoder with its heads, for a vocabulary."""

    vocabulary_size: int
    """Tokens."""
    relation: bool = True
    """Whether there is a head, and a pooler under it, that tells how two sentences are related (NSP, SOP)."""
    padding: int = 0
    """The number of [PAD]."""


class PretrainingModel(nn.Module):
    """BERT with the heads of its pretraining tasks, around transformers' `BertForPreTraining`, or `BertForMaskedLM` if
    no relation of sentences is learned; or their equivalents with Pre-LN (see pre_norm.py).

    The vocabulary head costs as much as several encoder layers; it is evaluated only on the M masked positions, never
    on all B * S positions.
    """

    def __init__(self, bert: nn.Module, relation: str = "nsp") -> None:
        super().__init__()
        # transformers is not typed as finely as its models are built.
        self.bert: Any = bert
        self.relation = relation

    @property
    def settings(self) -> BertSettings:
        """The shape of the model."""
        config = self.bert.config
        return BertSettings(
            vocabulary_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_layers=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            max_positions=self.max_positions,
            dropout=config.hidden_dropout_prob,
            relation=self._heads[1] is not None,
            pre_norm=config.model_type == PRE_NORM,
            padding=config.pad_token_id or 0,
        )

    @property
    def max_positions(self) -> int:
        """The longest sequence, in tokens."""
        return num_positions(self.bert.config)

    @property
    def _heads(self) -> tuple[nn.Module, nn.Module | None]:
        """Returns the head from hidden states to words, and the head from pooled states to a relation, or None."""
        if self.bert.config.model_type == PRE_NORM:
            return self.bert.lm_head, getattr(self.bert, "seq_relationship", None)
        return self.bert.cls.predictions, getattr(self.bert.cls, "seq_relationship", None)

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
        """Returns sums, not means, so that the caller can divide by the count of the whole global batch.

        Args:
            input_ids, token_type_ids, attention_mask: int64[B, S].
            masked_positions: int64[M], index b * S + s of each masked token; masked_labels: int64[M], its true id.
            next_sentence_label: int64[B], 0 if the second segment really follows the first; None: no such loss.
            position_ids, first_positions: for packed sequences (see data/packing.py), int64[R, S] and int64[B];
                attention_mask then numbers the sequences of a row, and no sequence sees another.

        Returns:
            ({"mlm": loss sum over M, "nsp": loss sum over B}, {"mlm": correct of M, "nsp": correct of B}); the second
            is empty in training mode.
        """
        mask = padding_mask(attention_mask) if first_positions is None else block_diagonal(attention_mask)
        if position_ids is not None:
            position_ids = position_ids + first_position(self.bert.config)
        encoder = self.bert.base_model
        encoded = encoder(
            input_ids=input_ids, token_type_ids=token_type_ids, attention_mask=mask, position_ids=position_ids
        )
        hidden = encoded.last_hidden_state.flatten(0, 1)
        words_of, relation_of = self._heads
        words = words_of(hidden[masked_positions])
        losses = {"mlm": cross_entropy(words.float(), masked_labels, reduction="sum")}
        right = {} if self.training else {"mlm": (words.argmax(-1) == masked_labels).sum()}
        if next_sentence_label is not None:
            assert relation_of is not None
            pooled = encoded.pooler_output
            if first_positions is not None:
                pooled = encoder.pooler(hidden[first_positions][:, None])
            relation = relation_of(pooled)
            losses[self.relation] = cross_entropy(relation.float(), next_sentence_label, reduction="sum")
            if not self.training:
                right[self.relation] = (relation.argmax(-1) == next_sentence_label).sum()
        return losses, right

    def save(self, folder: Path) -> None:
        """Writes a Hugging Face folder: `AutoModel.from_pretrained(folder)` loads the encoder."""
        self.bert.save_pretrained(folder)

    @classmethod
    def load(cls, folder: Path, relation: str = "nsp", *, seed: int | None = None) -> "PretrainingModel":
        """Loads the model in a Hugging Face folder, such as `save` writes.

        `seed`: draws heads that are missing in the folder as a whole; without a seed, they are an error.

        Raises:
            InputError: the folder holds no model that transformers can read, a model that is not a BERT, or one with a
                missing or surplus tensor.
        """
        quiet_transformers()
        config = read_encoder_config(folder)
        alone = any(str(name).endswith("ForMaskedLM") for name in config.architectures or [])
        kind = kind_of(config.model_type, "ForMaskedLM" if alone else "ForPreTraining")
        if not alone:
            check_segments(folder, config)
        heads = (*_HEADS, f"{kind.base_model_prefix}.pooler.")
        with seeded(seed or 0):
            return cls(read_model(kind, folder, config, () if seed is None else heads), relation)


def read_encoder_config(folder: Path) -> Any:
    """Reads the encoder's configuration in a model folder; InputError if it is no BERT, with or without Pre-LN."""
    return read_config(folder, ("bert", PRE_NORM))


def check_segments(folder: Path, config: Any) -> None:
    """Raises InputError if the encoder cannot distinguish a first segment from a second."""
    if config.type_vocab_size < 2:
        raise InputError(
            f"{folder}: type_vocab_size = {config.type_vocab_size} (config.json): must be at least 2, as two segments "
            "are to be told apart"
        )


def pretraining_model(settings: BertSettings, seed: int, relation: str = "nsp") -> PretrainingModel:
    """Makes a newly initialized model; the same seed gives the same weights.

    Raises:
        ValueError: `num_heads` does not divide `hidden_size`.
    """
    check_heads(settings.num_heads, settings.hidden_size)
    quiet_transformers()
    kind = kind_of(PRE_NORM if settings.pre_norm else "bert", "ForPreTraining" if settings.relation else "ForMaskedLM")
    config = kind.config_class(
        vocab_size=settings.vocabulary_size,
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        intermediate_size=4 * settings.hidden_size,
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=settings.dropout,
        pad_token_id=settings.padding,
        bos_token_id=None,
        eos_token_id=None,
    )
    config.max_position_embeddings = settings.max_positions + first_position(config)
    with seeded(seed):
        return PretrainingModel(kind(config), relation)


def kind_of(model_type: str, head: Head) -> Any:
    """Returns transformers' class for an encoder of this type with this head."""
    if (model_type, head) == (PRE_NORM, "ForPreTraining"):
        # A subclass of a transformers class must not be defined before transformers is needed.
        from anybatch.models.pre_norm import PreNormForPreTraining

        return PreNormForPreTraining
    import transformers

    return getattr(transformers, ("RobertaPreLayerNorm" if model_type == PRE_NORM else "Bert") + head)


def first_position(config: Any) -> int:
    """Returns the number of a sequence's first position: RoBERTa's come after the padding's."""
    return int(config.pad_token_id) + 1 if config.model_type == PRE_NORM else 0


def num_positions(config: Any) -> int:
    """Returns the longest sequence for which a transformers model has positions."""
    return int(config.max_position_embeddings) - first_position(config)


def pretraining_flops(settings: BertSettings, sequence_length: int, masking_rate: float) -> float:
    """Returns the floating-point operations of a forward and a backward pass on one sequence of S tokens.

        3 * 2 * (L (12 H^2 S + 2 H S^2) + M (H^2 + H V))      M = masking rate * S masked positions, V the vocabulary

    A matrix product of a x b by b x c takes 2abc; the backward pass takes twice the forward one. Embeddings,
    normalization, and the pooler with the next-sentence head are small, and not counted.
    """
    hidden, length = settings.hidden_size, sequence_length
    layers = settings.num_layers * (12 * hidden**2 * length + 2 * hidden * length**2)
    head = masking_rate * length * (hidden**2 + hidden * settings.vocabulary_size)
    return 6.0 * (layers + head)


def padding_mask(attention_mask: Tensor) -> Tensor:
    """Returns the mask for transformers from int64[B, S]: on a GPU a finished mask, bool[B, 1, 1, S].

    For any other mask, transformers checks whether all of it is set, and the host would wait for this in every
    micro-batch. A CPU has nothing to wait for, and a batch without padding then needs no mask.
    """
    return attention_mask if attention_mask.is_cpu else attention_mask[:, None, None, :].bool()


def block_diagonal(sequence_numbers: Tensor) -> Tensor:
    """Returns which token may attend to which: those of the same sequence, bool[R, 1, S, S] from int64[R, S].

    Padding attends to padding: a row of scores that are all minus infinity would give not-a-number.
    """
    return (sequence_numbers[:, None, :, None] == sequence_numbers[:, None, None, :]).contiguous()
