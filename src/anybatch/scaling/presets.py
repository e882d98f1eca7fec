"""Named scaling rules: the value of each hyperparameter if the batch is kappa = B / B0 times the reference's.

A preset is a `Rule`: one choice for each part. `Reference` takes a preset by name, and each part separately.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Literal, get_args, get_type_hints

LrRule = Literal["sqrt", "linear", "kept"]
MomentRule = Literal["kept", "sde", "half-life"]
EpsRule = Literal["kept", "sde"]
WeightDecayRule = Literal["kept", "timescale"]
WarmupRule = Literal["steps", "examples"]


@dataclass(frozen=True)
class Rule:
    """One choice for each part that depends on the batch.

    Args:
        lr: "sqrt": lr * sqrt(kappa). "linear": lr * kappa. "kept": lr.
        beta1, beta2: "kept": beta. "sde": 1 - kappa (1 - beta). "half-life": beta^kappa, which halves the weight of an
            old gradient after the same number of examples. `momentum` follows beta1.
        eps: "kept": eps. "sde": eps / sqrt(kappa).
        weight_decay: "kept": weight_decay. "timescale": weight_decay * kappa / (lr's factor). It keeps lr *
            weight_decay an example, the rate at which AdamW forgets its parameters.
        warmup: "steps": the same number of steps, so the warm-up ratio grows by kappa (the linear-epoch rule).
            "examples": the same number of examples, so the warm-up ratio stays.
    """

    lr: LrRule = "sqrt"
    beta1: MomentRule = "kept"
    beta2: MomentRule = "kept"
    eps: EpsRule = "kept"
    weight_decay: WeightDecayRule = "kept"
    warmup: WarmupRule = "steps"

    def __post_init__(self) -> None:
        kinds = get_type_hints(type(self))
        for part in fields(self):
            value, known = getattr(self, part.name), get_args(kinds[part.name])
            if value not in known:
                raise ValueError(f"{part.name}_rule={value!r} is not one of {', '.join(known)}")


def sqrt_rule() -> Rule:
    """The paper's rule: lr * sqrt(kappa), and a warm-up of the same number of steps; everything else is kept.

        lr(B) = lr sqrt(kappa)        warm-up ratio(B) = kappa * warm-up ratio

    Limit: the rule ends at the batch whose warm-up takes the whole run.
    Source: You et al. 2020, arXiv 1904.00962, section 4.3 and the appendix, for LAMB.
    """
    return Rule(lr="sqrt")


def linear_rule() -> Rule:
    """The linear rule: lr * kappa, and a warm-up of the same number of steps; everything else is kept.

        lr(B) = lr kappa        warm-up ratio(B) = kappa * warm-up ratio

    Limit: derived for SGD, as long as a step is small; for Adam it soon diverges.
    Source: Goyal et al. 2017, arXiv 1706.02677, section 2.1. The paper keeps the warm-up at 5 epochs, which is
    `warmup_rule="examples"` here.
    """
    return Rule(lr="linear")


def sde_rule() -> Rule:
    """The square-root rule of Adam and RMSprop, derived from a stochastic differential equation.

        lr(B) = lr sqrt(kappa)      beta(B) = 1 - kappa (1 - beta)      eps(B) = eps / sqrt(kappa)

    If gradients are mostly noise, runs then follow the same distribution over examples. Decoupled weight decay keeps
    its timescale, weight_decay * sqrt(kappa), by the same argument. RMSprop's alpha is beta2, with beta1 = 0. A beta
    of 0 has no memory and stays 0.

    Limits: the rule ends if beta(B) falls below 0: for beta1 = 0.9 at kappa = 10. `beta1_rule="kept"` goes further.
    There is no such rule for SGD's momentum.
    Source: Malladi et al. 2022, arXiv 2205.10287, definitions of the square-root scaling rules.
    """
    return Rule(lr="sqrt", beta1="sde", beta2="sde", eps="sde", weight_decay="timescale", warmup="examples")


def half_life_rule() -> Rule:
    """The half-life of Adam's second moment in examples is kept; so are beta1, eps and weight decay.

        beta2(B) = beta2^kappa        lr(B) = lr sqrt(kappa)

    Limits: the source shows it for language models from small batches on; it found a best lr that grows more slowly
    than the square root, so tune lr or choose `lr_rule`. `beta1_rule="half-life"` treats beta1 alike.
    Source: Marek et al. 2025, arXiv 2507.07101, for beta2. The learning rate and the warm-up are choices of this
    library.
    """
    return Rule(lr="sqrt", beta2="half-life", warmup="examples")


PRESETS: dict[str, Callable[[], Rule]] = {
    "sqrt": sqrt_rule,
    "linear": linear_rule,
    "sde": sde_rule,
    "half-life": half_life_rule,
}


def square_root(lr: float, batch_size: int, reference_batch_size: int) -> float:
    """lr * sqrt(batch_size / reference_batch_size): keeps the variance of a step, as the paper does."""
    return lr * math.sqrt(batch_size / reference_batch_size)


def linear(lr: float, batch_size: int, reference_batch_size: int) -> float:
    """lr * batch_size / reference_batch_size: keeps the mean of an epoch's steps (Goyal et al. 2017)."""
    return lr * (batch_size / reference_batch_size)


def scaled_lr(rule: LrRule, lr: float, batch_size: int, reference_batch_size: int) -> float:
    """The learning rate at `batch_size`."""
    if rule == "kept":
        return lr
    return (square_root if rule == "sqrt" else linear)(lr, batch_size, reference_batch_size)


def scaled_beta(rule: MomentRule, beta: float, kappa: Fraction) -> float:
    """A moment's decay at kappa times the batch; kappa is at most `largest_kappa`."""
    if rule == "kept" or beta == 0:
        return beta
    if rule == "half-life":
        return float(beta ** float(kappa))
    return float(1 - kappa * _forgotten(beta))


def largest_kappa(rule: MomentRule, beta: float) -> Fraction | None:
    """The largest kappa that `scaled_beta` allows; None if there is no bound."""
    if rule != "sde" or beta == 0:
        return None
    return 1 / _forgotten(beta)


def _forgotten(beta: float) -> Fraction:
    """1 - beta, exact in the decimal digits that the user wrote: 0.9 ends exactly at kappa = 10."""
    return 1 - Fraction(repr(float(beta)))


def scaled_eps(rule: EpsRule, eps: float, kappa: Fraction) -> float:
    """Adam's epsilon at kappa times the batch."""
    return eps / math.sqrt(kappa) if rule == "sde" else eps


def scaled_weight_decay(rule: WeightDecayRule, weight_decay: float, kappa: Fraction, lr_rule: LrRule) -> float:
    """The decoupled weight decay at kappa times the batch."""
    if rule == "kept" or lr_rule == "linear":
        return weight_decay
    return weight_decay * (math.sqrt(kappa) if lr_rule == "sqrt" else float(kappa))
