"""The learning rate of every step of a run: a linear warm-up, then a decay."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

Decay = Literal["polynomial", "cosine", "constant"]
Join = Literal["continuous", "global"]


def schedule(
    num_steps: int,
    warmup_steps: int = 0,
    *,
    decay: Decay = "polynomial",
    power: float = 1.0,
    join: Join = "continuous",
) -> Callable[[int], float]:
    """Returns the multiplier of the peak learning rate at step t = 0 ... T-1, for `torch.optim.lr_scheduler.LambdaLR`.

        t < W    (t + 1) / W                      the first step already moves; step W-1 has the full learning rate
        t >= W   (1 - s)^power                    decay="polynomial"
                 (1 + cos(pi s)) / 2              decay="cosine"
                 1                                decay="constant"

        s = (t - W) / (T - W)                     join="continuous": the decay starts after warm-up
        s = t / T                                 join="global": it began at t = 0, so the learning rate drops at the
                                                  join, as in the BERT family

    From step T on, which LambdaLR reads once, s is 1.

    Args:
        num_steps: T, at least 1.
        warmup_steps: W, from 0 to T.
        decay: "polynomial" (the paper's linear decay at power 1), "cosine" or "constant".
        power: the polynomial's, above 0.
        join: the step from which the decay counts.

    Raises:
        ValueError: naming the argument, its value and its bound.

    Source: You et al. 2020, arXiv 1904.00962, section 4 (eta_0 (1 - t/T) after a linear warm-up).

    Example:
        >>> multiplier = schedule(6, 2)
        >>> [multiplier(t) for t in range(6)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
        >>> dropping = schedule(6, 2, join="global")
        >>> [round(dropping(t), 3) for t in range(6)]
        [0.5, 1.0, 0.667, 0.5, 0.333, 0.167]
    """
    count("num_steps", num_steps, 1)
    if count("warmup_steps", warmup_steps, 0) > num_steps:
        raise ValueError(f"warmup_steps={warmup_steps} is more than num_steps={num_steps}")
    check_shape(decay, power, join)
    # LambdaLR saves the fields of an object, and loads them into the schedule of a run with another length; of a
    # partial it saves nothing.
    return partial(Stretch(1, 0, num_steps, warmup_steps, decay, power, join))


@dataclass(frozen=True)
class Stretch:
    """The multiplier at step t of a stretch of a longer run; the run's schedule counts examples, not steps.

        warm-up    e / W, e examples after the step     then    the decay at the share (e - W) / (E - W) before it

    `schedule` is one stretch of steps of one example. It is a class and not a nested function, so it can be pickled.

    Args:
        batch_size: the stretch's batch.
        start: examples before the stretch.
        num_examples: E, the examples of the whole run.
        warmup_examples: W, the examples of the whole run's warm-up.
        decay, power, join: as in `schedule`.
    """

    batch_size: int
    start: int
    num_examples: int
    warmup_examples: int
    decay: Decay = "polynomial"
    power: float = 1.0
    join: Join = "continuous"

    def __call__(self, t: int) -> float:
        before = self.start + t * self.batch_size
        if before < self.warmup_examples:
            return min(1.0, (before + self.batch_size) / self.warmup_examples)
        start = self.warmup_examples if self.join == "continuous" else 0
        gone = (before - start) / (self.num_examples - start) if before < self.num_examples else 1.0
        if self.decay == "polynomial":
            return float((1 - gone) ** self.power)
        return (1 + math.cos(math.pi * gone)) / 2 if self.decay == "cosine" else 1.0


@dataclass(frozen=True)
class Growing:
    """The multiplier of a range test: it grows exponentially from `first` to `last` over `num_steps` steps.

    Source: Smith 2017, arXiv 1506.01186, section 3.3.
    """

    first: float
    last: float
    num_steps: int

    def __call__(self, t: int) -> float:
        return float(self.first * (self.last / self.first) ** (t / max(1, self.num_steps - 1)))


def check_shape(decay: str, power: float, join: str) -> None:
    """Raises ValueError if `schedule` does not know the decay, power or join."""
    if decay not in get_args(Decay):
        raise ValueError(f"decay={decay!r} is not one of {', '.join(get_args(Decay))}")
    if join not in get_args(Join):
        raise ValueError(f"join={join!r} is not one of {', '.join(get_args(Join))}")
    if not 0 < power < math.inf:
        raise ValueError(f"power={power} is not a finite number above 0")


def count(name: str, value: int, lowest: int) -> int:
    """Returns `value` if it is an int of at least `lowest`; otherwise raises ValueError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
        raise ValueError(f"{name}={value!r} is not an int of at least {lowest}")
    return value
