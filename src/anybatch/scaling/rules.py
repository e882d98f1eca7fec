"""The rules that carry the settings of one tuned batch to another batch."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from fractions import Fraction
from typing import Any, Literal, Self, get_args

from anybatch.scaling.presets import (
    PRESETS,
    EpsRule,
    LrRule,
    MomentRule,
    Rule,
    WarmupRule,
    WeightDecayRule,
    largest_kappa,
    scaled_beta,
    scaled_eps,
    scaled_lr,
    scaled_weight_decay,
)
from anybatch.scaling.schedule import Decay, Join, Stretch, check_shape, count, schedule

Preset = Literal["sqrt", "linear", "sde", "half-life"]

# The smallest number that rounds to 1.0: a warm-up this long leaves no step for training.
_ALL_OF_IT = 1 - Fraction(1, 2**54)


@dataclass(frozen=True)
class Scaled:
    """The settings of a run at `batch_size`, or of a stretch of a run; made by `Reference.at` and `Reference.ramp`.

    A hyperparameter that the reference lacks is None. `stretch` is the schedule of a part of a ramp.
    """

    batch_size: int
    lr: float
    warmup_ratio: float
    warmup_steps: int
    num_steps: int
    num_examples: int
    decay: Decay
    power: float
    join: Join
    betas: tuple[float, float] | None = None
    momentum: float | None = None
    eps: float | None = None
    weight_decay: float | None = None
    stretch: Stretch | None = None

    @property
    def schedule(self) -> Callable[[int], float]:
        """Returns the multiplier of `lr` at step t, for `LambdaLR`; t counts from the start of the stretch."""
        if self.stretch is not None:
            return self.stretch
        return schedule(self.num_steps, self.warmup_steps, decay=self.decay, power=self.power, join=self.join)

    @property
    def optimizer(self) -> dict[str, Any]:
        """Keyword arguments for the optimizer: lr, and the known ones of betas, momentum, eps and weight_decay."""
        names = ("lr", "betas", "momentum", "eps", "weight_decay")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(frozen=True)
class Reference:
    """Settings known to work at one batch size, and the rules that scale them to any other, larger or smaller.

        lr            lr(B) = lr(B0) * sqrt(B / B0)       rule="sqrt";   * B / B0 with rule="linear"
        warm-up       ratio(B) = ratio(B0) * B / B0       linear-epoch warm-up: the same number of steps, more epochs
        steps         T(B) = ceil(num_examples / B)       the same number of examples

    The rules "sde" and "half-life" also change betas, eps and weight decay: see `anybatch.scaling.presets`.

    `weight_decay_rule="timescale"` is meant for AdamW. In LAMB, weight decay is inside the ratio: it sets how much
    of a step's direction is decay, and does not change the step's length.

    Raises:
        ValueError: naming the field, its value and its bound.

    Source: You et al. 2020, arXiv 1904.00962, section 4.3 and the tables of the appendix; each other rule names its
    source.

    Example: BERT-large, from 512 to 32,768; and AdamW from 256 down to 64.
        >>> bert = Reference(512, lr=5 / 8000, warmup_ratio=1 / 320, num_examples=512_000_000)
        >>> large = bert.at(32768)
        >>> large.lr, large.warmup_ratio, large.num_steps, large.warmup_steps
        (0.005, 0.2, 15625, 3125)
        >>> bert.at(200_000)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        ValueError: batch_size=200000 has a warm-up ratio of 1.221, which is not below 1; the largest batch ...
        >>> adamw = Reference(256, lr=1e-3, warmup_ratio=0.01, num_examples=10**7, betas=(0.9, 0.98), rule="sde")
        >>> adamw.at(64).optimizer
        {'lr': 0.0005, 'betas': (0.975, 0.995)}
    """

    batch_size: int = 512
    """B0, the batch (examples a step) at which the settings were tuned."""
    _: KW_ONLY
    lr: float
    """The peak learning rate at B0, above 0."""
    warmup_ratio: float
    """The share of the steps at B0 that warm up, from 0 to below 1."""
    num_examples: int | None = None
    """Examples of the whole run, over all its epochs; or give num_epochs."""
    num_epochs: float | None = None
    """The length of the run in epochs of the data; or give num_examples."""
    betas: tuple[float, float] | None = None
    """Adam's betas at B0; None: not scaled, and in a recipe the optimizer's defaults."""
    momentum: float | None = None
    """SGD's momentum at B0; None: not scaled, and in a recipe the optimizer's default."""
    eps: float | None = None
    """Adam's epsilon at B0; None: not scaled, and in a recipe the optimizer's default."""
    weight_decay: float | None = None
    """Weight decay at B0; None if it is not to be scaled."""
    rule: Preset = "sqrt"
    """The rule by which all settings follow the batch: sqrt (the paper's), linear, sde or half-life."""
    lr_rule: LrRule | None = None
    """The rule for the learning rate, instead of the preset's: sqrt, linear or kept."""
    beta1_rule: MomentRule | None = None
    """The rule for beta1 and momentum, instead of the preset's: kept, sde or half-life."""
    beta2_rule: MomentRule | None = None
    """The rule for beta2, instead of the preset's: kept, sde or half-life."""
    eps_rule: EpsRule | None = None
    """The rule for eps, instead of the preset's: kept or sde."""
    weight_decay_rule: WeightDecayRule | None = None
    """The rule for weight decay, instead of the preset's: kept or timescale."""
    warmup_rule: WarmupRule | None = None
    """The rule for the warm-up, instead of the preset's: the same number of steps, or of examples."""
    decay: Decay = "polynomial"
    """The schedule after warm-up: polynomial, cosine or constant."""
    power: float = 1.0
    """The power of the polynomial; 1: linear decay."""
    join: Join = "continuous"
    """The step from which the decay counts: the end of warm-up (continuous), or the first step (global), as in BERT."""

    def __post_init__(self) -> None:
        count("batch_size", self.batch_size, 1)
        if (self.num_examples is None) == (self.num_epochs is None):
            raise ValueError("give one of num_examples and num_epochs, and set the other to None (null)")
        if self.num_examples is not None and count("num_examples", self.num_examples, 1) < self.batch_size:
            raise ValueError(
                f"num_examples={self.num_examples} is below batch_size={self.batch_size}, one step of the reference: "
                "give more data or a longer run, or lower batch_size with its lr"
            )
        if self.num_epochs is not None and not 0 < self.num_epochs < math.inf:
            raise ValueError(f"num_epochs={self.num_epochs} is not a finite number above 0")
        for name in ("lr", "warmup_ratio", "momentum", "eps", "weight_decay"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float | None):
                raise ValueError(f"{name}={value!r} is not a number")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr={self.lr} is not a finite number above 0")
        if not 0 <= self.warmup_ratio < 1:
            raise ValueError(f"warmup_ratio={self.warmup_ratio} is not in [0, 1)")
        self._check_hyperparameters()
        check_shape(self.decay, self.power, self.join)

    def _check_hyperparameters(self) -> None:
        if self.rule not in get_args(Preset):
            raise ValueError(f"rule={self.rule!r} is not one of {', '.join(get_args(Preset))}")
        parts = self.parts
        if self.betas is not None:
            if not isinstance(self.betas, tuple | list) or not all(isinstance(b, int | float) for b in self.betas):
                raise ValueError(f"betas={self.betas!r} are not two numbers")
            if len(self.betas) != 2:
                raise ValueError(f"betas={self.betas} are not two numbers")
            for name, beta in zip(("beta1", "beta2"), self.betas, strict=True):
                if not 0 <= beta < 1:
                    raise ValueError(f"betas={self.betas}: {name}={beta} is not in [0, 1)")
        if self.momentum is not None:
            if not 0 <= self.momentum < 1:
                raise ValueError(f"momentum={self.momentum} is not in [0, 1)")
            if parts.beta1 == "sde":
                raise ValueError(
                    f"momentum={self.momentum}: the sde rule is for the moments of Adam and RMSprop, not for SGD's "
                    'momentum; choose rule="linear", or beta1_rule="kept"'
                )
        needed = {"beta1": "betas", "beta2": "betas", "eps": "eps", "weight_decay": "weight_decay"}
        for part, name in needed.items():
            if getattr(self, f"{part}_rule") not in (None, "kept") and self._lacks(name):
                raise ValueError(f"{part}_rule={getattr(self, f'{part}_rule')!r} needs {name}, which is not given")
        if self.rule in ("sde", "half-life") and parts.beta2 != "kept" and self._lacks("betas"):
            raise ValueError(
                f"rule={self.rule!r} scales betas, which are not given: give those of the optimizer, such as "
                "betas=(0.9, 0.999), and eps and weight_decay if they are to follow, too"
            )
        for name in ("eps", "weight_decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name}={value} is not a finite number of at least 0")

    def _lacks(self, name: str) -> bool:
        """Returns whether neither `name` nor, for betas, momentum is given."""
        return getattr(self, name) is None and (name != "betas" or self.momentum is None)

    def length(self, epoch_examples: int | None = None, share: float = 1.0) -> int:
        """Examples of a share of the run, on data of `epoch_examples` examples if its length is in epochs."""
        if self.num_epochs is None:
            assert self.num_examples is not None
            return max(1, round(self.num_examples * share))
        if epoch_examples is None:
            raise ValueError(f"num_epochs={self.num_epochs}: say how many examples an epoch has: .over(epoch_examples)")
        return max(1, round(self.num_epochs * epoch_examples * share))

    def over(self, epoch_examples: int, share: float = 1.0) -> Self:
        """The reference of a share of the run, its length in examples; see `length`."""
        return replace(self, num_examples=self.length(epoch_examples, share), num_epochs=None)

    @property
    def parts(self) -> Rule:
        """The preset, with the separately chosen parts instead of the preset's."""
        names = ("lr", "beta1", "beta2", "eps", "weight_decay", "warmup")
        chosen = {name: value for name in names if (value := getattr(self, f"{name}_rule")) is not None}
        return replace(PRESETS[self.rule](), **chosen)

    def at(self, batch_size: int) -> Scaled:
        """Returns the settings at another batch size; at the reference's batch size, the reference's settings.

        Raises:
            ValueError: batch_size is below 1, not an int, above `num_examples`, or so large that warm-up would take
                the whole run or a moment would leave [0, 1). The last two name the largest batch that the rule allows.
        """
        num_examples = self.length()
        if count("batch_size", batch_size, 1) > num_examples:
            raise ValueError(f"batch_size={batch_size} is more than num_examples={num_examples}")
        parts, kappa = self.parts, Fraction(batch_size, self.batch_size)
        ratio = self._warmup_ratio(batch_size)
        num_steps = math.ceil(Fraction(num_examples, batch_size))
        return Scaled(
            batch_size=batch_size,
            lr=scaled_lr(parts.lr, self.lr, batch_size, self.batch_size),
            warmup_ratio=float(ratio),
            warmup_steps=round(ratio * num_steps),
            num_steps=num_steps,
            num_examples=num_examples,
            decay=self.decay,
            power=self.power,
            join=self.join,
            betas=self._betas(batch_size),
            momentum=None if self.momentum is None else scaled_beta(parts.beta1, self.momentum, kappa),
            eps=None if self.eps is None else scaled_eps(parts.eps, self.eps, kappa),
            weight_decay=None
            if self.weight_decay is None
            else scaled_weight_decay(parts.weight_decay, self.weight_decay, kappa, parts.lr),
        )

    def ramp(self, stages: Sequence[tuple[float, int]]) -> tuple[Scaled, ...]:
        """Returns the stages of a run whose batch grows under one schedule; each stage is a stretch of the run.

            lr at a step = lr(B) * multiplier(examples so far)      B: the stage's batch

        A switch from B to 2B multiplies the learning rate by the rule's factor (sqrt(2) for the square root). There is
        one warm-up, which the first batch's rule gives.

        Args:
            stages: (share of the examples, batch), in order; the shares add up to 1, and no batch is smaller than the
                previous one.

        Returns:
            One `Scaled` a stage. Keep the optimizer and its moments from stage to stage.

        Raises:
            ValueError: shares that do not add up to 1, a batch that shrinks, a stage of less than one step, or a batch
                that `at` refuses.

        Example:
            >>> adamw = Reference(64, lr=1e-3, warmup_ratio=0.05, num_examples=64_000)
            >>> [(stage.batch_size, stage.num_steps, stage.lr) for stage in adamw.ramp([(0.5, 64), (0.5, 256)])]
            [(64, 500, 0.001), (256, 125, 0.002)]
        """
        if (
            isinstance(stages, str)
            or not stages
            or not all(isinstance(s, tuple | list) and len(s) == 2 for s in stages)
        ):
            raise ValueError(f"stages={stages!r} is no list of (share, batch)")
        shares = [share for share, _ in stages]
        if not all(share > 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
            shown = ", ".join(f"{share:g}" for share in shares)
            raise ValueError(f"the shares {shown} are not all above 0, or add up to {sum(shares):g}, not to 1")
        for (_, before), (_, batch_size) in itertools.pairwise(stages):
            if batch_size < before:
                raise ValueError(f"batch {batch_size} follows {before}: a ramp does not shrink")
        num_examples = self.length()
        # The warm-up is the first batch's; a larger batch would need more than its stage has.
        warmup_ratio = self._warmup_ratio(stages[0][1])
        runs = [replace(self, warmup_ratio=0.0).at(batch_size) for _, batch_size in stages]
        steps, examples = [], 0
        for number, run in enumerate(runs, 1):
            target = round(num_examples * sum(shares[:number]))
            left = (target if number < len(runs) else num_examples) - examples
            steps.append(round(left / run.batch_size) if number < len(runs) else math.ceil(left / run.batch_size))
            if steps[-1] < 1:
                raise ValueError(f"batch {run.batch_size}: its share of {num_examples} examples is less than a step")
            examples += steps[-1] * run.batch_size
        first = runs[0]
        # If there is only one batch, the same whole number of steps as `at` gives.
        warmup_examples = round(warmup_ratio * examples / first.batch_size) * first.batch_size
        found, start = [], 0
        for run, num_steps in zip(runs, steps, strict=True):
            warm = min(max(math.ceil((warmup_examples - start) / run.batch_size), 0), num_steps)
            stretch = Stretch(run.batch_size, start, examples, warmup_examples, self.decay, self.power, self.join)
            found.append(
                replace(
                    run, num_steps=num_steps, num_examples=num_steps * run.batch_size, warmup_steps=warm,
                    warmup_ratio=float(warmup_ratio), stretch=stretch,
                )
            )  # fmt: skip
            start += num_steps * run.batch_size
        return tuple(found)

    def _warmup_ratio(self, batch_size: int) -> Fraction:
        if self.parts.warmup == "examples":
            return Fraction(self.warmup_ratio)
        ratio = Fraction(self.warmup_ratio) * batch_size / self.batch_size
        if ratio >= _ALL_OF_IT:
            largest = math.ceil(_ALL_OF_IT * self.batch_size / Fraction(self.warmup_ratio)) - 1
            raise ValueError(
                f"batch_size={batch_size} has a warm-up ratio of {float(ratio):.4g}, which is not below 1; "
                f"the largest batch is {largest}: lower the reference's warmup_ratio, or set "
                'warmup_rule="examples", which keeps the ratio'
            )
        return ratio

    def _betas(self, batch_size: int) -> tuple[float, float] | None:
        if self.betas is None:
            return None
        parts, kappa = self.parts, Fraction(batch_size, self.batch_size)
        rules: tuple[MomentRule, MomentRule] = (parts.beta1, parts.beta2)
        bounds = [bound for rule, beta in zip(rules, self.betas, strict=True) if (bound := largest_kappa(rule, beta))]
        if bounds and kappa > min(bounds):
            largest = math.floor(min(bounds) * self.batch_size)
            raise ValueError(
                f"batch_size={batch_size} takes betas={self.betas} out of [0, 1) by the sde rule, "
                f"1 - {float(kappa):.4g} (1 - beta); the largest batch is {largest}, or keep beta1 by beta1_rule"
            )
        first, second = (scaled_beta(rule, beta, kappa) for rule, beta in zip(rules, self.betas, strict=True))
        return first, second
