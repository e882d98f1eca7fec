"""Every preset against numbers worked out by hand, upwards and downwards, and against published examples."""

import dataclasses
import math
from typing import Any

import pytest

from anybatch.scaling import Reference, Rule, Scaled
from anybatch.scaling.presets import PRESETS

ADAMW: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}


def flat(settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` with betas apart, as `approx` compares no nested values."""
    betas = settings.get("betas", ())
    return {**settings, "betas": len(betas), **{f"beta{n}": beta for n, beta in enumerate(betas, 1)}}


def at(rule: Any, reference_batch: int, batch: int, **others: Any) -> Scaled:
    values = {"warmup_ratio": 0.01, "num_examples": 10**7, **ADAMW, **others}
    return Reference(reference_batch, lr=1e-3, rule=rule, **values).at(batch)


@pytest.mark.parametrize(
    ("rule", "reference_batch", "batch", "lr", "betas", "eps", "weight_decay", "warmup_ratio"),
    [
        # kappa = 4: rates by 2 or 4; 1 - 4 * 0.1 = 0.6 and 1 - 4 * 0.001 = 0.996; 0.999^4.
        ("sqrt", 64, 256, 2e-3, (0.9, 0.999), 1e-8, 0.1, 0.04),
        ("linear", 64, 256, 4e-3, (0.9, 0.999), 1e-8, 0.1, 0.04),
        ("sde", 64, 256, 2e-3, (0.6, 0.996), 0.5e-8, 0.2, 0.01),
        ("half-life", 64, 256, 2e-3, (0.9, 0.996005996001), 1e-8, 0.1, 0.01),
        # kappa = 1/4: 1 - 0.1 / 4 = 0.975, 1 - 0.001 / 4 = 0.99975.
        ("sqrt", 256, 64, 0.5e-3, (0.9, 0.999), 1e-8, 0.1, 0.0025),
        ("linear", 256, 64, 0.25e-3, (0.9, 0.999), 1e-8, 0.1, 0.0025),
        ("sde", 256, 64, 0.5e-3, (0.975, 0.99975), 2e-8, 0.05, 0.01),
        ("half-life", 256, 64, 0.5e-3, (0.9, 0.9997499062), 1e-8, 0.1, 0.01),
    ],
)  # fmt: skip
def test_a_preset_scales_every_hyperparameter(
    rule: str, reference_batch: int, batch: int, lr: float, betas: Any, eps: float, weight_decay: float,
    warmup_ratio: float,
) -> None:  # fmt: skip
    scaled = at(rule, reference_batch, batch)
    expected = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    assert flat(scaled.optimizer) == pytest.approx(flat(expected))
    assert scaled.warmup_ratio == pytest.approx(warmup_ratio)
    assert scaled.num_steps == math.ceil(10**7 / batch)
    assert abs(scaled.warmup_steps - warmup_ratio * scaled.num_steps) < 0.6


@pytest.mark.parametrize("rule", PRESETS)
def test_there_and_back_is_the_reference(rule: Any) -> None:
    there = at(rule, 64, 512)
    values = {name: getattr(there, name) for name in ("betas", "eps", "weight_decay", "warmup_ratio", "lr")}
    back = Reference(512, rule=rule, num_examples=10**7, **values).at(64)
    assert flat(back.optimizer) == pytest.approx(flat(at(rule, 64, 64).optimizer), rel=1e-9)
    assert flat(back.optimizer) == pytest.approx(flat({"lr": 1e-3, **ADAMW}), rel=1e-9)


def test_the_published_half_life_example() -> None:
    """Marek et al. 2025: beta2 = 0.95 at batch 512 has the half-life in tokens of 0.9999 at batch 1."""
    scaled = at("half-life", 512, 1, betas=(0.9, 0.95))
    assert scaled.betas is not None
    assert round(scaled.betas[1], 4) == 0.9999
    # 512 examples halve at batch 512 what 512 steps halve at batch 1.
    assert scaled.betas[1] ** 512 == pytest.approx(0.95)


def test_malladis_sweep_is_a_line_in_kappa() -> None:
    """At kappa = 8, beta (0.9, 0.999) becomes (0.2, 0.992), the rate 2.83 times, eps 0.354 times."""
    scaled = at("sde", 32, 256)
    assert scaled.betas == (0.2, 0.992)
    assert (scaled.lr / 1e-3, scaled.eps and scaled.eps / 1e-8) == pytest.approx((2.8284271, 0.35355339))


@pytest.mark.parametrize("rule", ["sqrt", "sde", "half-life"])
@pytest.mark.parametrize("batch", [64, 128, 640, 7])
def test_the_timescale_of_weight_decay_is_constant_in_examples(rule: str, batch: int) -> None:
    scaled = at(rule, 64, batch, weight_decay_rule="timescale")
    assert scaled.weight_decay is not None
    # AdamW keeps (1 - lr * weight_decay) of a parameter a step.
    assert scaled.lr * scaled.weight_decay / batch == pytest.approx(1e-3 * 0.1 / 64)


def test_a_linear_rate_needs_no_other_weight_decay_for_its_timescale() -> None:
    assert at("linear", 64, 256, weight_decay_rule="timescale").weight_decay == 0.1
    assert at("sqrt", 64, 256, lr_rule="kept", weight_decay_rule="timescale").weight_decay == pytest.approx(0.4)


def test_sde_ends_where_a_moment_leaves_the_interval() -> None:
    assert at("sde", 64, 640).betas == (0.0, 0.99), "kappa = 10 is the last one for beta1 = 0.9"
    with pytest.raises(
        ValueError, match=r"batch_size=641 takes betas=\(0.9, 0.999\) out of \[0, 1\).*largest batch is 640"
    ):
        at("sde", 64, 641)
    assert at("sde", 64, 64_000, beta1_rule="kept").betas == (0.9, 0.0)
    with pytest.raises(ValueError, match="the largest batch is 64000"):
        at("sde", 64, 64_001, beta1_rule="kept")


@pytest.mark.parametrize("beta", [0.5, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999])
@pytest.mark.parametrize("batch", [1, 3, 64, 100])
def test_the_largest_batch_of_sde_is_the_one_that_is_named(beta: float, batch: int) -> None:
    reference = Reference(
        batch, lr=1e-3, warmup_ratio=0.0, num_examples=10**8, betas=(0.0, beta), rule="sde", warmup_rule="examples"
    )
    with pytest.raises(ValueError, match="the largest batch is") as caught:
        reference.at(10**7)
    largest = int(str(caught.value).split("largest batch is ")[1].split(",")[0])
    assert largest == round(batch / (1 - beta))
    assert reference.at(largest).betas == (0.0, 0.0)
    with pytest.raises(ValueError, match=f"largest batch is {largest}"):
        reference.at(largest + 1)


def test_rmsprop_has_no_first_moment_to_lose() -> None:
    assert at("sde", 64, 640, betas=(0.0, 0.99)).betas == (0.0, 0.9)


def test_beta1_follows_its_half_life_if_asked() -> None:
    assert at("half-life", 64, 128, beta1_rule="half-life").betas == pytest.approx((0.81, 0.998001))
    assert Reference(
        64, lr=0.1, warmup_ratio=0, num_examples=6400, momentum=0.9, beta1_rule="half-life"
    ).at(128).optimizer == pytest.approx({"lr": 0.1 * math.sqrt(2), "momentum": 0.81})  # fmt: skip


def test_only_what_was_given_is_returned() -> None:
    reference = Reference(64, lr=1e-3, warmup_ratio=0.0, num_examples=6400, eps=1e-8)
    assert reference.at(256).optimizer == {"lr": 2e-3, "eps": 1e-8}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rule": "sde"}, "rule='sde' scales betas, which are not given"),
        ({"rule": "half-life", "eps": 1e-8}, "rule='half-life' scales betas, which are not given"),
        ({"eps_rule": "sde"}, "eps_rule='sde' needs eps, which is not given"),
        ({"weight_decay_rule": "timescale"}, "weight_decay_rule='timescale' needs weight_decay"),
        ({"lr": "1e-3"}, "lr='1e-3' is not a number"),
        ({"betas": 0.9}, "betas=0.9 are not two numbers"),
        ({"betas": ("0.9", "0.98")}, "are not two numbers"),
    ],
)
def test_a_rule_without_what_it_scales_is_refused(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reference(64, **{"lr": 1e-3, "warmup_ratio": 0.0, "num_examples": 6400, **values})


def test_a_preset_is_its_parts() -> None:
    for name, preset in PRESETS.items():
        parts = {f"{part}_rule": value for part, value in dataclasses.asdict(preset()).items()}
        assert at(name, 64, 128) == at("sqrt", 64, 128, **parts)
        assert "Source:" in (preset.__doc__ or "")
        assert "Limit" in (preset.__doc__ or "")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"betas": (0.9, 1.0)}, r"beta2=1.0 is not in \[0, 1\)"),
        ({"betas": (-0.1, 0.9)}, r"beta1=-0.1 is not in \[0, 1\)"),
        ({"betas": (0.9,)}, "are not two numbers"),
        ({"betas": (0.9, math.nan)}, "beta2=nan"),
        ({"momentum": 1.0}, r"momentum=1.0 is not in \[0, 1\)"),
        ({"momentum": 0.9, "rule": "sde"}, "not for SGD's momentum"),
        ({"eps": -1e-8}, "eps=-1e-08 is not a finite number of at least 0"),
        ({"weight_decay": math.inf}, "weight_decay=inf"),
        ({"rule": "cube"}, "rule='cube' is not one of sqrt, linear, sde, half-life"),
        ({"beta2_rule": "square"}, "beta2_rule='square' is not one of kept, sde, half-life"),
        ({"weight_decay_rule": "sde"}, "weight_decay_rule='sde' is not one of kept, timescale"),
    ],
)
def test_a_wrong_value_is_named(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reference(64, **{"lr": 1e-3, "warmup_ratio": 0.0, "num_examples": 6400, **values})


def test_a_rule_can_be_made_by_hand() -> None:
    assert Rule(beta2="half-life").beta2 == "half-life"
    with pytest.raises(ValueError, match="lr_rule='cube'"):
        Rule(lr="cube")  # type: ignore[arg-type]
