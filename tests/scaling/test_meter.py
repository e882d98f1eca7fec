"""GradientNoiseScale in training loops of every kind, on problems whose noise scale is known."""

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from statistics import median, stdev
from typing import Any

import pytest
import torch
from support.noise_problems import DIMENSION, GaussianMixture, LinearRegression, measure
from torch import nn

from anybatch import LAMB, GradientNoiseScale
from anybatch.scaling.meter import preconditioner, square_sum

SCRIPT = Path(__file__).parents[1] / "support" / "noise_ranks.py"


@pytest.mark.parametrize("problem", [LinearRegression, GaussianMixture])
def test_the_interval_holds_what_is_true(problem: Any) -> None:
    """At fixed weights: 100 repetitions of 25 steps of two micro-batches, one of them larger."""
    inside = 0
    values, reaches = [], []
    for seed in range(100):
        model = problem(12)
        noise = GradientNoiseScale(model)
        random = torch.Generator().manual_seed(seed)
        for _ in range(25):
            for count in (8, 24):
                (model(count, random) / 32).backward()
                noise.micro_batch(count)
            noise.step()
            model.zero_grad()
        found = noise.estimate()
        inside += found.low <= model.noise_scale <= found.high
        values.append(found.value)
        reaches.append((1 / found.low - 1 / found.high) / 2)
    assert inside >= 90
    # Nor is it wider than it must be: about two standard deviations of the reciprocal, which scatters evenly.
    assert 1.6 < median(reaches) / stdev(1 / value for value in values) < 2.8
    assert sorted(values)[50] == pytest.approx(model.noise_scale, rel=0.1)


def test_layers_add_up_and_steps_can_be_left_out() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))
    noise = GradientNoiseScale(model, every=3, window=5)
    for _ in range(21):
        for _ in range(4):
            (model(torch.randn(8, 6)).square().mean() / 4).backward()
            noise.micro_batch(8)
        noise.step()
        model.zero_grad()
    whole, layers = noise.estimate(), noise.layers()
    assert whole.num_steps == 5
    assert list(layers) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert sum(layer.noise_trace for layer in layers.values()) == pytest.approx(whole.noise_trace, rel=1e-12)
    assert sum(layer.gradient_square for layer in layers.values()) == pytest.approx(whole.gradient_square, rel=1e-9)


def test_the_gradient_is_left_as_it_is() -> None:
    def gradient(measured: Any) -> Any:
        model, random = LinearRegression(5), torch.Generator().manual_seed(0)
        noise = GradientNoiseScale(model) if measured else None
        for _ in range(2):
            model(4, random).backward()
            if noise is not None:
                noise.micro_batch(4)
        if noise is not None:
            noise.step()
        return model.weight.grad

    assert torch.equal(gradient(True), gradient(False))


def test_the_preconditioned_noise_scale_weighs_as_the_update_does() -> None:
    """Two parameters under LAMB; what the meter sums must be g' P g with P taken from v and the trust ratios."""
    torch.manual_seed(0)
    model, twin = nn.Linear(3, 2), nn.Linear(3, 2)
    optimizer = LAMB(model.named_parameters(), lr=0.01)
    noise = GradientNoiseScale(model, optimizer)
    parts = []
    for _ in range(6):
        weights = preconditioner(optimizer, dict(model.named_parameters()))
        squares = []
        whole = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        for _ in range(2):
            # A twin without hooks says what the gradients are.
            twin.load_state_dict(model.state_dict())
            grads = torch.autograd.grad(twin(torch.randn(4, 3)).square().mean() / 2, list(twin.parameters()))
            squares.append(dict(zip(whole, grads, strict=True)))
            whole = {name: value + squares[-1][name] for name, value in whole.items()}
        parts.append((weights, squares, whole))
        # Fed to the meter as it would see them: hooks first, then the sum in p.grad.
        for own in squares:
            sum((p * own[name]).sum() for name, p in model.named_parameters()).backward()
            noise.micro_batch(4)
        noise.step()
        optimizer.step()
        optimizer.zero_grad()
    square = trace = 0.0
    for weights, squares, whole in parts[1:]:
        small = sum(float((w * (2 * own[n]).square()).sum()) for own in squares for n, w in weights.items()) / 2
        large = sum(float((w * whole[n].square()).sum()) for n, w in weights.items())
        trace += (small - large) / (1 / 4 - 1 / 8)
        square += large - (small - large) / (1 / 4 - 1 / 8) / 8
    found = noise.estimate(preconditioned=True)
    assert found.num_steps == 5, "before the first step there is no preconditioner"
    assert found.noise_trace * 5 == pytest.approx(trace, rel=1e-5)
    assert found.gradient_square * 5 == pytest.approx(square, rel=1e-4)
    ratio = optimizer.trust_ratios()["weight"].ratio
    state = optimizer.state[model.weight]
    expected = ratio / ((state["exp_avg_sq"] / (1 - 0.999 ** float(state["step"]))).sqrt() + 1e-6)
    torch.testing.assert_close(preconditioner(optimizer, dict(model.named_parameters()))["weight"], expected)


def test_a_removed_meter_costs_nothing_and_keeps_what_it_saw() -> None:
    model, random = LinearRegression(3), torch.Generator().manual_seed(0)
    noise = GradientNoiseScale(model)
    for step in range(8):
        if step == 5:
            noise.remove()
        for _ in range(2):
            model(4, random).backward()
            noise.micro_batch(4)
        noise.step()
        model.zero_grad()
    assert noise.estimate().num_steps == 5
    assert not model.weight._backward_hooks


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copy", "pickle"])
def test_a_copy_goes_on_with_the_copy_of_the_model(twin: Any) -> None:
    def go_on(model: Any, noise: Any) -> Any:
        random = torch.Generator().manual_seed(1)
        for _ in range(4):
            for _ in range(2):
                model(4, random).backward()
                noise.micro_batch(4)
            noise.step()
            model.zero_grad()
        return noise.estimate()

    model = LinearRegression(3)
    noise = GradientNoiseScale(model)
    go_on(model, noise)
    other, measured = twin((model, noise))
    assert go_on(other, measured) == go_on(model, noise)
    assert measured.estimate().num_steps == 8
    noise.remove()
    removed_model, removed = twin((model, noise))
    assert not removed_model.weight._backward_hooks
    assert removed.estimate() == noise.estimate()


def test_misuse_is_one_clear_error() -> None:
    model = LinearRegression(3)
    with pytest.raises(ValueError, match="every=0"):
        GradientNoiseScale(model, every=0)
    with pytest.raises(ValueError, match="ranks='max'"):
        GradientNoiseScale(model, ranks="max")
    noise = GradientNoiseScale(model)
    with pytest.raises(ValueError, match="num_examples=0"):
        noise.micro_batch(0)
    with pytest.raises(ValueError, match="no step was measured"):
        noise.estimate()
    with pytest.raises(ValueError, match="preconditioned=True needs the optimizer"):
        noise.estimate(preconditioned=True)
    model(4, torch.Generator()).backward()
    noise.micro_batch(4)
    with pytest.raises(ValueError, match="1 micro-batch on 1 rank: the noise scale needs at least two a step"):
        noise.step()


def scaled_loop(
    noise: Any, model: Any, optimizer: Any, scaler: Any, seed: int = 0, order: Any = "unscale, measure"
) -> None:
    """A loop under GradScaler, as PyTorch's documentation has it, with the steps of the meter."""
    random = torch.Generator().manual_seed(seed)
    for _ in range(8):
        for count in (8, 24):
            scaler.scale(model(count, random) / 32).backward()
            noise.micro_batch(count)
        if order == "measure, unscale":
            noise.step()
        scaler.unscale_(optimizer)
        if order == "clip, measure":
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        if order != "measure, unscale":
            noise.step()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_gradient_scaler_changes_nothing_but_has_to_be_named(adaptive: Any) -> None:
    def found(scale: Any, order: Any = "unscale, measure", named: Any = True) -> Any:
        model = LinearRegression(12)
        optimizer = LAMB(model.parameters(), lr=1e-6) if adaptive else torch.optim.SGD(model.parameters(), lr=0.0)
        # The scale grows every other step, as long as nothing overflows.
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2, enabled=scale != 1)
        noise = GradientNoiseScale(model, optimizer if adaptive else None, scaler=scaler if named else None)
        scaled_loop(noise, model, optimizer, scaler, order=order)
        return noise.estimate(preconditioned=adaptive)

    plain, scaled = found(1.0), found(2.0**10)
    assert scaled.value == pytest.approx(plain.value, rel=1e-5)
    assert scaled.gradient_square == pytest.approx(plain.gradient_square, rel=1e-5)
    message = r"the gradient of weight at step\(\) was not the sum of what the micro-batches gave: call step\(\) before"
    for wrong in ({"named": False}, {"order": "clip, measure"}, {"order": "measure, unscale"}):
        with pytest.raises(ValueError, match=message):
            found(2.0**10, **wrong)


def test_a_gradient_that_is_divided_or_left_over_is_refused() -> None:
    def found(change: Any) -> Any:
        model, random = LinearRegression(200), torch.Generator().manual_seed(0)
        noise = GradientNoiseScale(model)
        for _ in range(4):
            for _ in range(40):
                model(4, random).backward()
                noise.micro_batch(4)
            change(model)
            noise.step()
            if change is not left_over:
                model.zero_grad()
        return noise.estimate()

    def halved(model: Any) -> None:
        model.weight.grad.div_(2)

    def left_over(model: Any) -> None:
        pass

    assert found(lambda model: None).num_steps == 4
    for change in (halved, left_over):
        with pytest.raises(ValueError, match="zero gradients before a step"):
            found(change)


def test_squares_of_many_elements_are_right() -> None:
    tensor = torch.randn(3_000_001)
    assert float(square_sum(tensor)) == pytest.approx(float(tensor.double().square().sum()), rel=2e-5)


@pytest.mark.timeout(200)
def test_intervals_of_one_two_and_four_ranks_agree(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen([sys.executable, SCRIPT, tmp_path], env=environment)
    try:
        truth = LinearRegression(DIMENSION).noise_scale
        intervals = {"one": measure(LinearRegression(DIMENSION), 0, 1, 4)}
        assert process.wait(150) == 0
    finally:
        # Its ranks are daemons, which end with it.
        process.terminate()
        process.wait(10)
    for size in (2, 4):
        found = json.loads((tmp_path / f"found-{size}.json").read_text())
        plain, preconditioned = found.pop("preconditioned")
        # The entries of v are alike, so that P is a number a step, which weighs the steps and otherwise cancels.
        assert preconditioned == pytest.approx(plain, rel=0.25)
        intervals |= {f"{name}, {size} ranks": interval for name, interval in found.items()}
    for name, (_, low, high) in intervals.items():
        # The seeds are fixed: 60 steps of few examples have the truth well within twice the stated reach.
        assert low / 1.2 < truth < high * 1.2, (name, intervals)
        for other, (_, other_low, other_high) in intervals.items():
            assert low <= other_high, (name, other, intervals)
            assert other_low <= high, (name, other, intervals)
