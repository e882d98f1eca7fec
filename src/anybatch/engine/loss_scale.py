"""The factor of fp16 gradients, so that small ones do not become 0."""

_FIRST = 2.0**16
_GROWS_AFTER = 2_000


class LossScale:
    """A power of two, which changes no digit: halved by a step without a finite gradient, doubled after 2,000 with one.

    `state` is its part of a checkpoint.

    Source: Micikevicius et al. 2018, Mixed Precision Training, arXiv 1710.03740, section 3.2.
    """

    def __init__(self) -> None:
        self.value = _FIRST
        self._sound = 0

    @property
    def state(self) -> list[float]:
        return [self.value, self._sound]

    @state.setter
    def state(self, state: list[float]) -> None:
        self.value, self._sound = float(state[0]), int(state[1])

    def update(self, skipped: bool) -> None:
        """Updates the scale; called after each step."""
        self._sound = 0 if skipped else self._sound + 1
        if skipped:
            self.value = max(self.value / 2, 1.0)
        elif self._sound % _GROWS_AFTER == 0:
            self.value *= 2
