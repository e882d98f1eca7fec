"""What making or reading a model takes, whatever its kind."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from anybatch.errors import InputError


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


def read_pretrained(kind: Any, folder: Path, what: str = "BERT") -> Any:
    """The model of transformers' class `kind` in `folder`; InputError where it cannot be read. No pickle is opened."""
    try:
        return kind.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    # A damaged or foreign folder can make transformers fail in any way.
    except Exception as error:
        raise InputError(f"{folder}: no readable {what} model: {' '.join(str(error).split())[:200]}") from None


def quiet_transformers() -> None:
    """Keeps transformers' own progress bars and load reports off the terminal: ours tell what is going on."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
