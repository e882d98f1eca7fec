"""The input of a model: some examples as tensors, and where they come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """A batch: `inputs` are the model's keyword arguments; `num_targets` has the divisor of each loss sum, by loss.

    `checksum` identifies the examples (`sampling.checksum`), if the caller filled it in.
    """

    inputs: Mapping[str, Tensor]
    num_targets: Mapping[str, int]
    num_examples: int
    checksum: int = 0


class Source(Protocol):
    """Numbered examples; `batch` is a pure function, and an example's content depends only on its numbers."""

    @property
    def num_examples(self) -> int:
        """Returns the number of examples in one epoch."""
        ...

    def batch(self, epochs: NDArray[np.int64], examples: NDArray[np.int64]) -> Batch:
        """Returns the examples numbered `examples`, each as in its epoch; both int64[B]."""
        ...
