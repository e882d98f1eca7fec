"""Which steps are looked at for the gradient noise: every so many, and only what can be seen as two gradients."""

from collections.abc import Mapping
from typing import Any

from anybatch.engine.job import Job, NoiseMeter, Phase
from anybatch.engine.parallel import Parallel


class WatchedNoise:
    """The job's meter of gradient noise, where it has one, on the steps that the run watches.

    A function of the step alone, so that a resumed run watches the same. Ranks give a gradient each, and micro-batches;
    where neither gives a second one, the watched step is cut in two.
    """

    def __init__(self, job: Job, parallel: Parallel) -> None:
        self._every = job.execution.noise_every
        make = job.noise_meter if self._every else None
        self._meter = None if make is None else make(parallel.model)
        self._size = parallel.ranks.size
        # Shards are summed over ranks before anybody sees them, so that only micro-batches can differ.
        self._alone = self._size == 1 or parallel.sums_in_backward

    def meter(self, step: int, phase: Phase) -> NoiseMeter | None:
        """The meter, where step `step` is watched."""
        parts = phase.global_batch_size if phase.group_size is None else -(-phase.global_batch_size // phase.group_size)
        fewest = 2 * self._size if self._alone else 2
        return self._meter if self._every and (step + 1) % self._every == 0 and parts >= fewest else None

    def micro_batch_size(self, step: int, phase: Phase, chosen: int) -> int:
        """`chosen`, or what cuts every rank's share of a watched step in two."""
        if not self._alone or self.meter(step, phase) is None:
            return chosen
        return min(chosen, -(-(phase.global_batch_size // self._size) // 2))


def measured(meter: NoiseMeter, detail: bool) -> Mapping[str, Any] | None:
    """What the meter made of the step it has just seen; None where that was not finite."""
    squares, traces = meter.history()
    if not squares:
        return None
    return {"gradient_square": squares[-1], "noise_trace": traces[-1], **(meter.last_step() if detail else {})}
