"""One tuned batch size stands for all of them: the rules that carry its settings to another batch."""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from fractions import Fraction
from typing import Literal, get_args

from anybatch.scaling.schedule import Decay, Join, check_shape, count, schedule

Rule = Literal["sqrt", "linear"]

# The least number that rounds to 1.0: a warm-up this long leaves no step for training.
_ALL_OF_IT = 1 - Fraction(1, 2**54)


def square_root(lr: float, batch_size: int, reference_batch_size: int) -> float:
    """lr * sqrt(batch_size / reference_batch_size): keeps the variance of a step, as the paper does."""
    return lr * math.sqrt(batch_size / reference_batch_size)


def linear(lr: float, batch_size: int, reference_batch_size: int) -> float:
    """lr * batch_size / reference_batch_size: keeps the mean of an epoch's steps (Goyal et al. 2017)."""
    return lr * (batch_size / reference_batch_size)


@dataclass(frozen=True)
class Scaled:
    """What a run at `batch_size` uses; made by `Reference.at`."""

    batch_size: int
    lr: float
    warmup_ratio: float
    warmup_steps: int
    num_steps: int
    num_examples: int
    decay: Decay
    power: float
    join: Join

    @property
    def schedule(self) -> Callable[[int], float]:
        """The multiplier of `lr` at step t, for `LambdaLR`."""
        return schedule(self.num_steps, self.warmup_steps, decay=self.decay, power=self.power, join=self.join)


@dataclass(frozen=True)
class Reference:
    """Settings known to work at one batch size, and the rules that carry them to every other.

        lr            eta(B) = eta(B0) * sqrt(B / B0)     rule="sqrt";   * B / B0 with rule="linear"
        warm-up       ratio(B) = ratio(B0) * B / B0       linear-epoch warm-up: the same number of steps, more epochs
        steps         T(B) = ceil(num_examples / B)       the same number of examples

    Args:
        batch_size: B0, examples a step.
        lr: peak rate at B0, above 0.
        warmup_ratio: share of the steps at B0 spent on warm-up, from 0 to below 1.
        num_examples: examples of the whole run, over all its epochs.
        rule: how lr follows the batch.
        decay, power, join: the schedule after warm-up, as in `schedule`.

    Raises:
        ValueError: naming the field, its value and its bound.

    Source: You et al. 2020, arXiv 1904.00962, section 4.3 and the tables of the appendix.

    Example: BERT-large, from 512 to 32,768.
        >>> bert = Reference(512, lr=5 / 8000, warmup_ratio=1 / 320, num_examples=512_000_000)
        >>> large = bert.at(32768)
        >>> large.lr, large.warmup_ratio, large.num_steps, large.warmup_steps
        (0.005, 0.2, 15625, 3125)
        >>> bert.at(200_000)
        Traceback (most recent call last):
            ...
        ValueError: batch_size=200000 has a warm-up ratio of 1.221, which is not below 1; the largest batch is 163839
    """

    batch_size: int = 512
    _: KW_ONLY
    lr: float
    warmup_ratio: float
    num_examples: int
    rule: Rule = "sqrt"
    decay: Decay = "polynomial"
    power: float = 1.0
    join: Join = "continuous"

    def __post_init__(self) -> None:
        count("batch_size", self.batch_size, 1)
        count("num_examples", self.num_examples, self.batch_size)
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr={self.lr} is not a finite number above 0")
        if not 0 <= self.warmup_ratio < 1:
            raise ValueError(f"warmup_ratio={self.warmup_ratio} is not in [0, 1)")
        if self.rule not in get_args(Rule):
            raise ValueError(f"rule={self.rule!r} is not one of {', '.join(get_args(Rule))}")
        check_shape(self.decay, self.power, self.join)

    def at(self, batch_size: int) -> Scaled:
        """The settings at another batch size; at the reference's own, the reference itself.

        Raises:
            ValueError: batch_size is below 1, not an int, above `num_examples`, or so large that warm-up would take the
                whole run; the last names the largest batch that the rule allows.
        """
        if count("batch_size", batch_size, 1) > self.num_examples:
            raise ValueError(f"batch_size={batch_size} is more than num_examples={self.num_examples}")
        ratio = Fraction(self.warmup_ratio) * batch_size / self.batch_size
        if ratio >= _ALL_OF_IT:
            largest = math.ceil(_ALL_OF_IT * self.batch_size / Fraction(self.warmup_ratio)) - 1
            raise ValueError(
                f"batch_size={batch_size} has a warm-up ratio of {float(ratio):.4g}, which is not below 1; "
                f"the largest batch is {largest}"
            )
        num_steps = math.ceil(Fraction(self.num_examples, batch_size))
        scale = square_root if self.rule == "sqrt" else linear
        return Scaled(
            batch_size=batch_size,
            lr=scale(self.lr, batch_size, self.batch_size),
            warmup_ratio=float(ratio),
            warmup_steps=round(ratio * num_steps),
            num_steps=num_steps,
            num_examples=self.num_examples,
            decay=self.decay,
            power=self.power,
            join=self.join,
        )
