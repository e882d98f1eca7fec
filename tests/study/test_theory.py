"""The theorems at a small size: known constants, the predicted exponents, the smoothness that counts, the crossover."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from anybatch.progress import SilentProgress
from anybatch.report.theory import write_theory
from anybatch.study.theory.experiments import SMALL, crossing, measure_theory, sentences, sparse_problem, spiked
from anybatch.study.theory.problem import START_ANGLE, Problem

PROBLEM = Problem((3.0, 1.0), (0.0, 0.0), (0.7, 0.2), width=4, octaves=2)


def value(x: torch.Tensor, problem: Problem) -> torch.Tensor:
    """f as its docstring has it, with the optimum at 0."""
    scale = problem.scales()
    return (problem.curvatures() * scale.square() * (1 - (x / scale).cos())).sum(1)


def test_the_constants_are_those_of_the_function() -> None:
    start = (START_ANGLE * PROBLEM.scales()).requires_grad_()
    assert value(start, PROBLEM).tolist() == pytest.approx(PROBLEM.energy)
    zero = torch.zeros_like(start)
    at_optimum = torch.autograd.functional.hessian(lambda x: value(x, PROBLEM).sum(), zero)
    curvatures = torch.diagonal(at_optimum.reshape(8, 8)).view(2, 4)
    torch.testing.assert_close(curvatures, PROBLEM.curvatures())
    assert curvatures.max(1).values.tolist() == pytest.approx(PROBLEM.smoothness)
    at_start = torch.autograd.functional.hessian(lambda x: value(x, PROBLEM).sum(), start.detach())
    assert at_start.reshape(8, 8).diagonal().max() < 0


def test_the_gradient_is_as_dense_as_it_is_said_to_be() -> None:
    # (sum_i |grad_i|)^2 / (h |grad|^2): 1 if the layers are alike, 1/h if one layer has the whole gradient.
    for problem, density in ((sparse_problem(4, 2, 8), 2 / 8), (sparse_problem(1, 8, 8), 1.0)):
        start = (START_ANGLE * problem.scales()).requires_grad_()
        value(start, problem).sum().backward()
        assert start.grad is not None
        norms = start.grad.norm(dim=1) * (torch.tensor(problem.energy) > 0)
        assert float(norms.sum() ** 2 / (8 * norms.square().sum())) == pytest.approx(density)
    assert sum(spiked(4, 8)) / 8 == pytest.approx(1)


def test_a_crossing_lies_between_its_neighbors_in_logarithms() -> None:
    assert crossing([0.25, 1.0], [4.0, 0.25]) == pytest.approx(0.5)
    assert crossing([0.25, 1.0], [4.0, 2.0]) is None


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    return measure_theory(SMALL, 0, SilentProgress())


@pytest.mark.slow
def test_squared_gradient_norms_fall_as_the_theorems_say(measured: dict[str, Any]) -> None:
    for row in measured["exponents"]:
        assert row["exponent"]["mean"] == pytest.approx(row["predicted"], rel=0.15), row["method"]


@pytest.mark.slow
def test_the_sharpest_layer_costs_sgd_alone(measured: dict[str, Any]) -> None:
    for row in measured["smoothness"]["methods"]:
        assert row["exponent"]["mean"] == pytest.approx(row["predicted"], abs=0.15), row["method"]


@pytest.mark.slow
def test_layer_wise_methods_lose_where_the_gradient_is_sparse_and_win_where_the_curvature_is(
    measured: dict[str, Any],
) -> None:
    for row in measured["crossover"]["methods"]:
        dense_curvature, sparse_curvature = row["ratios"]
        assert dense_curvature[0] > 1.5
        assert sparse_curvature[-1] < 0.9
        assert math.isclose(row["crossings"][1], 0.25, rel_tol=1.0)


@pytest.mark.slow
def test_the_same_seed_measures_the_same_and_the_page_shows_it(measured: dict[str, Any], tmp_path: Path) -> None:
    tiny = replace(SMALL, steps=(10, 20), spreads=(1, 4), densities=(1, 8), fixed_steps=10)
    first, second = (measure_theory(tiny, 3, SilentProgress()) for _ in range(2))
    assert first == second
    names = {path.name for path in write_theory(measured, sentences(measured), tmp_path)}
    figures = {f"{name}.{kind}" for name in ("exponents", "smoothness", "crossover") for kind in ("svg", "pdf")}
    assert names == {"index.html", "exponents.csv", "crossover.csv"} | figures
