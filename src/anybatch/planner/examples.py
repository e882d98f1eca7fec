"""The number of examples that a run needs to its target, as a function of the batch."""

from bisect import bisect_right
from dataclasses import dataclass

from anybatch.scaling import examples_at


@dataclass(frozen=True)
class Fixed:
    """The same examples at every batch up to `largest_batch`, as the paper's rule assumes; `why` explains the bound.

    `advised_batch`: the largest batch to propose, if it is smaller.
    """

    num_examples: float
    largest_batch: int | None = None
    why: str = ""
    advised_batch: int | None = None

    def at(self, batch_size: float) -> float:
        return self.num_examples


@dataclass(frozen=True)
class Law:
    """E(B) = E_min (1 + B / B_crit), given by the examples needed at one batch.

    Source: McCandlish et al. 2018, arXiv 1812.06162, equation 2.11 (after their S_min and E_min).
    """

    reference_examples: float
    reference_batch: float
    critical_batch: float

    def at(self, batch_size: float) -> float:
        return examples_at(self.reference_examples, self.reference_batch, batch_size, self.critical_batch)


@dataclass(frozen=True)
class Curve:
    """Examples at a few batches, fitted to published runs; a straight line between two, as the law has.

    Below the first batch the examples do not change; beyond the last batch the last line continues.
    """

    points: tuple[tuple[float, float], ...]
    source: str

    def at(self, batch_size: float) -> float:
        batches = [batch for batch, _ in self.points]
        if batch_size <= batches[0]:
            return self.points[0][1]
        left = min(bisect_right(batches, batch_size), len(batches) - 1) - 1
        (low, start), (high, end) = self.points[left], self.points[left + 1]
        return start + (end - start) * (batch_size - low) / (high - low)


Examples = Fixed | Law | Curve
