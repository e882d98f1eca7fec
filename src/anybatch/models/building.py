"""What making a model takes, whatever its kind."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """New weights in the block are drawn from `seed`; torch's generator is afterwards as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def check_heads(num_heads: int, hidden_size: int) -> None:
    """Raises ValueError where `num_heads` does not divide `hidden_size`."""
    if hidden_size % num_heads:
        raise ValueError(f"model.num_heads = {num_heads} does not divide model.hidden_size = {hidden_size}")


def quiet_transformers() -> None:
    """Keeps transformers' own progress bars and load reports off the terminal: ours tell what is going on."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
