"""What goes wrong in a run without ending it: losses that jump, steps without a finite gradient, saves that fail."""

import math
from collections import deque
from collections.abc import Iterable
from statistics import fmean

from anybatch.errors import Failed

_WINDOW = 100
_FEWEST = 20
_DEVIATIONS = 6.0


class Health:
    """Follows a run's losses; `losses` are those of the steps before, oldest first, where it is resumed."""

    def __init__(self, max_skipped_steps: int, losses: Iterable[float | None] = ()) -> None:
        self._max_skipped_steps = max_skipped_steps
        self._recent = deque([loss for loss in losses if loss is not None and math.isfinite(loss)], _WINDOW)
        self._skipped = 0

    def spike(self, loss: float) -> bool:
        """Whether `loss` lies over 6 standard deviations above the mean of the last 100; the first 20 never do."""
        recent = list(self._recent)
        if math.isfinite(loss):
            self._recent.append(loss)
        if len(recent) < _FEWEST or loss <= (mean := fmean(recent)):
            return False
        return loss - mean > _DEVIATIONS * math.dist(recent, [mean] * len(recent)) / math.sqrt(len(recent))

    def check_skipped(self, skipped: bool, step: int, last_saved: int) -> None:
        """Counts steps in a row without a finite gradient.

        Raises:
            Failed: they are as many as the run may skip.
        """
        self._skipped = self._skipped + 1 if skipped else 0
        if self._skipped >= self._max_skipped_steps:
            raise Failed(
                f"step {step}: {self._skipped} steps in a row had no finite loss and gradient, and were skipped; the "
                f"last sound one is step {step - self._skipped}, and --resume goes on from the checkpoint of step "
                f"{last_saved}; a lower optimizer.lr, or a longer warm-up in a new run, is the usual remedy"
            )
