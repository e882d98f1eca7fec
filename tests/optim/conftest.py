"""The matrix: optimizers x settings. A new optimizer is one function and one row of settings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import oracle
import pytest
import torch

from anybatch.optim import LAMB, LARS, Layerwise

BOUNDS = [{"phi": (0.5, 2.0)}, {"trust_clip": (0.01, 0.3)}, {"norm": "l1"}, {"norm": "linf"}]
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "lamb": [
        {},
        {"weight_decay": 0.0},
        {"weight_decay": 0.3, "betas": (0.5, 0.7), "eps": 1e-3},
        {"bias_correction": False},
        {"nesterov": "m"},
        {"nesterov": "mv"},
        {"nesterov": "m", "bias_correction": False},
        {"nesterov": "mv", "bias_correction": False},
        {"maximize": True},
        *BOUNDS,
    ],
    "lars": [
        {},
        {"weight_decay": 0.1, "momentum": 0.7, "eps": 0.1},
        {"nesterov": True, "weight_decay": 0.1},
        {"maximize": True, "trust_coefficient": 0.5},
        *BOUNDS,
        *(
            {"form": form, "joint_norm": joint, "nesterov": nesterov, **tuned}
            for form in ("lars-2017", "lr-outside")
            for joint in (False, True)
            for nesterov, tuned in (
                (False, {"weight_decay": 0.1}),
                (True, {"weight_decay": 0.2, "trust_coefficient": 0.01, "eps": 0.1, "maximize": True}),
            )
        ),
        *({"form": "lars-2017", **bounds} for bounds in BOUNDS),
    ],
    "layerwise": [{}, {"weight_decay": 0.3, "betas": (0.5, 0.7)}, *BOUNDS],
}


def layerwise(params: Any, **settings: Any) -> Layerwise:
    own = {key: settings.pop(key) for key in ("norm", "phi", "trust_clip") if key in settings}
    return Layerwise(torch.optim.AdamW(params, **{"lr": 1e-3, "eps": 1e-6, "weight_decay": 0.01, **settings}), **own)


def lars(params: Any, lr: Any = 1e-3, **settings: Any) -> LARS:
    return LARS(params, lr, **settings)


MAKE: dict[str, Callable[..., torch.optim.Optimizer]] = {"lamb": LAMB, "lars": lars, "layerwise": layerwise}
ORACLE = {"lamb": oracle.lamb, "lars": oracle.lars, "layerwise": oracle.lamb}


@dataclass(frozen=True)
class Row:
    name: str
    settings: dict[str, Any]

    def make(self, params: Any, **more: Any) -> Any:
        return MAKE[self.name](params, **{**self.settings, **more})

    def oracle(self, x: np.ndarray, gradients: list[np.ndarray], rates: list[float], **more: Any) -> np.ndarray:
        return ORACLE[self.name](x, gradients, rates, **{**self.settings, **more})

    def __str__(self) -> str:
        return " ".join([self.name, *(f"{key}={value}" for key, value in self.settings.items())])


ROWS = [Row(name, settings) for name, several in SETTINGS.items() for settings in several]
KINDS = [Row(name, {"weight_decay": 0.1}) for name in SETTINGS]


@pytest.fixture(params=ROWS, ids=str)
def row(request: pytest.FixtureRequest) -> Row:
    """Every optimizer with each of its settings."""
    return request.param


@pytest.fixture(params=[row for row in ROWS if row.name != "layerwise"], ids=str)
def native_row(request: pytest.FixtureRequest) -> Row:
    """Those with state and a gate of their own, with each of their settings."""
    return request.param


@pytest.fixture(params=[kind for kind in KINDS if kind.name != "layerwise"], ids=lambda kind: kind.name)
def native(request: pytest.FixtureRequest) -> Row:
    """Those with state and a gate of their own, once."""
    return request.param


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Row:
    """Every optimizer once."""
    return request.param


@dataclass
class Problem:
    """Layers and the gradients of a few steps; the same numbers in every dtype."""

    xs: list[np.ndarray]
    gradients: list[list[np.ndarray]]
    rates = (0.1, 0.2, 0.05, 0.1, 0.02)

    def params(self, dtype: torch.dtype = torch.float64, device: str = "cpu") -> list[torch.nn.Parameter]:
        return [torch.nn.Parameter(torch.tensor(x, dtype=dtype, device=device)) for x in self.xs]

    def run(
        self, optimizer: torch.optim.Optimizer, params: list[torch.nn.Parameter], steps: slice = slice(None)
    ) -> None:
        for gradients, rate in zip(self.gradients[steps], self.rates[steps], strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate
            for p, g in zip(params, gradients, strict=True):
                p.grad = torch.tensor(g, dtype=p.dtype, device=p.device)
            optimizer.step()

    def of(self, layer: int) -> list[np.ndarray]:
        return [gradients[layer] for gradients in self.gradients]


@pytest.fixture
def problem() -> Problem:
    random = np.random.default_rng(0)
    shapes = [(6, 4), (5,), (), (3, 2, 2), (0, 3), (6, 2)]
    xs = [random.normal(size=shape) for shape in shapes]
    return Problem(xs, [[random.normal(size=shape) for shape in shapes] for _ in Problem.rates])
