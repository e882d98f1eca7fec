"""GPT-2, which predicts each token from the tokens before it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from anybatch.models.bert import Sums
from anybatch.models.building import Positions, TransformerSettings, check_heads, quiet_transformers, seeded
from anybatch.models.pretrained import read_config, read_model

# Below 1, likely tokens are drawn more often than their probability; this is usual for text that people read.
_TEMPERATURE = 0.7


@dataclass(frozen=True, kw_only=True)
class DecoderSettings(TransformerSettings):
    """The shape of a GPT-2."""

    max_positions: Positions = 1024
    """The longest sequence, in tokens."""


@dataclass(frozen=True, kw_only=True)
class GptSettings(DecoderSettings):
    """A GPT-2 for a vocabulary."""

    vocabulary_size: int
    """Tokens."""


class CausalModel(nn.Module):
    """A left-to-right language model around transformers' `GPT2LMHeadModel`."""

    def __init__(self, gpt: nn.Module) -> None:
        super().__init__()
        self.gpt: Any = gpt

    @property
    def max_positions(self) -> int:
        """The longest sequence, in tokens."""
        return int(self.gpt.config.n_positions)

    def forward(self, input_ids: Tensor) -> tuple[Sums, Sums]:
        """Returns the cross-entropy summed over all tokens except the first of each sequence, input_ids int64[B, S].

        Returns:
            ({"lm": loss sum}, {"lm": number right}); the second is empty in training mode.
        """
        logits = self.gpt(input_ids=input_ids, use_cache=False).logits[:, :-1].flatten(0, 1)
        targets = input_ids[:, 1:].flatten()
        losses = {"lm": cross_entropy(logits.float(), targets, reduction="sum")}
        return losses, {} if self.training else {"lm": (logits.argmax(-1) == targets).sum()}

    @torch.no_grad()
    def continued(self, start: Sequence[int], count: int, window: int, allowed: Sequence[int], seed: int) -> list[int]:
        """Returns `count` tokens, each drawn from the probabilities that the `window` tokens before it give.

        Args:
            start: at least one token; the first new token follows it.
            allowed: the tokens that may be drawn.
            seed: the same seed gives the same draws, on any device.
        """
        device = next(self.parameters()).device
        draws = torch.Generator().manual_seed(seed)
        choices = torch.tensor(allowed)
        ids = list(start)
        for _ in range(count):
            logits = self.gpt(input_ids=torch.tensor([ids[-window:]], device=device), use_cache=False).logits[0, -1]
            weights = (logits.float().cpu()[choices] / _TEMPERATURE).softmax(-1)
            ids.append(int(choices[torch.multinomial(weights, 1, generator=draws)]))
        return ids[len(start) :]

    def save(self, folder: Path) -> None:
        """Writes a Hugging Face folder: `AutoModelForCausalLM.from_pretrained(folder)` loads it."""
        self.gpt.save_pretrained(folder)

    @classmethod
    def load(cls, folder: Path) -> "CausalModel":
        """Loads the model in a Hugging Face folder, such as `save` writes."""
        from transformers import GPT2LMHeadModel

        quiet_transformers()
        return cls(read_model(GPT2LMHeadModel, folder, read_config(folder, ("gpt2",))))


def causal_model(settings: GptSettings, seed: int) -> CausalModel:
    """Makes a newly initialized model; the same seed gives the same weights.

    Raises:
        ValueError: `num_heads` does not divide `hidden_size`.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    check_heads(settings.num_heads, settings.hidden_size)
    quiet_transformers()
    config = GPT2Config(
        vocab_size=settings.vocabulary_size,
        n_embd=settings.hidden_size,
        n_layer=settings.num_layers,
        n_head=settings.num_heads,
        n_positions=settings.max_positions,
        resid_pdrop=settings.dropout,
        embd_pdrop=settings.dropout,
        attn_pdrop=settings.dropout,
        bos_token_id=None,
        eos_token_id=None,
        # The same function as GPT-2's "gelu_new", to rounding, in one kernel instead of seven.
        activation_function="gelu_pytorch_tanh",
    )
    with seeded(seed):
        return CausalModel(GPT2LMHeadModel(config))


def causal_flops(settings: GptSettings, sequence_length: int) -> float:
    """Returns the floating-point operations of a forward and a backward pass on one sequence of S tokens.

    3 * 2 * (L (12 H^2 S + H S^2) + S H V)      half of BERT's attention: a token looks back alone
    """
    hidden, length = settings.hidden_size, sequence_length
    layers = settings.num_layers * (12 * hidden**2 * length + hidden * length**2)
    return 6.0 * (layers + length * hidden * settings.vocabulary_size)
