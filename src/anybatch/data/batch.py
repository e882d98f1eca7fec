"""What a model is fed: some examples as tensors, and where they come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """`inputs` are the model's keyword arguments; `num_targets` counts, by loss, what its sum is to be divided by.

    `checksum` tells which examples these are, where whoever asked for them filled it in (`sampling.checksum`).
    """

    inputs: Mapping[str, Tensor]
    num_targets: Mapping[str, int]
    num_examples: int
    checksum: int = 0


class Source(Protocol):
    """Numbered examples; `batch` is a pure function, and an example's content depends on its own numbers alone."""

    @property
    def num_examples(self) -> int:
        """Examples in one epoch."""
        ...

    def batch(self, epochs: NDArray[np.int64], examples: NDArray[np.int64]) -> Batch:
        """The examples numbered `examples`, each as it is in its epoch; both int64[B]."""
        ...
