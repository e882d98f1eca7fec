"""Settings, checks and seeding that all transformer models share."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Interval, Lt

Width = Annotated[int, Interval(ge=1, le=2**16)]
Positions = Annotated[int, Interval(ge=16, le=2**17)]


@dataclass(frozen=True, kw_only=True)
class TransformerSettings:
    """The shape of a transformer."""

    hidden_size: Width
    """Width of the hidden states."""
    num_layers: Annotated[int, Interval(ge=1, le=1024)]
    """Layers."""
    num_heads: Width
    """Attention heads a layer; must divide hidden_size."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Dropout of the embeddings, the hidden states and the attention."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draws new weights in the block from `seed`; restores torch's generator afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def check_heads(num_heads: int, hidden_size: int) -> None:
    """Raises ValueError if `num_heads` does not divide `hidden_size`."""
    if hidden_size % num_heads:
        raise ValueError(f"model.num_heads = {num_heads} does not divide model.hidden_size = {hidden_size}")


def quiet_transformers() -> None:
    """Turns off transformers' progress bars and load reports: ours report progress."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
