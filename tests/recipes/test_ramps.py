"""A recipe whose batch grows: the same parameters as a loop by hand, resumed across every switch bit for bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from anybatch.engine.step import sum_of_squares
from anybatch.errors import InputError, Stopped
from anybatch.recipes import change, find_recipe, train_recipe
from anybatch.recipes.recipe import Recipe
from anybatch.recipes.tasks import build
from anybatch.runs import Run

SMALL = ["reference.num_epochs=null", "reference.num_examples=640", "ramp=16:64", "engine.num_evals=2", "seed=3"]


def ramped(*others: str) -> Recipe:
    return change(find_recipe("digits-lenet"), [*SMALL, *others])


def weights(run: Path) -> dict[str, torch.Tensor]:
    newest = max(run.joinpath("checkpoints").iterdir(), key=lambda folder: folder.name)
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(newest.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def test_a_ramp_is_phases_of_one_schedule() -> None:
    recipe = ramped()
    assert [(phase.batch_size, round(phase.share, 3)) for phase in recipe.phases] == [
        (16, 0.333), (32, 0.333), (64, 0.333)
    ]  # fmt: skip
    assert recipe.ramp
    assert change(find_recipe("digits-lenet"), [*SMALL[:2], "ramp=16@0.25,64@0.75"]).phases[0].share == 0.25


@pytest.mark.parametrize("optimizer", ["lamb", "adamw"])
def test_the_trajectory_is_that_of_a_loop_by_hand(tmp_path: Path, optimizer: str) -> None:
    recipe = ramped(
        f"optimizer.name={optimizer}", "reference.rule=sde", "reference.batch_size=16", "reference.lr=0.003"
    )
    train_recipe(recipe, tmp_path / "run")
    job = build(recipe, Run(tmp_path / "scratch"))
    model, step, seen = job.model.train(), 0, 0
    for phase, moments in zip(job.phases, [(0.9, 0.999), (0.8, 0.998), (0.6, 0.996)], strict=True):
        assert phase.hyperparameters["betas"] == pytest.approx(moments)
        for group in job.optimizer.param_groups:
            group["betas"], group["eps"] = moments, 1e-6 / (phase.global_batch_size / 16) ** 0.5
            group["weight_decay"] = 0.01 * (phase.global_batch_size / 16) ** 0.5 if group["weight_decay"] else 0.0
        for _ in range(phase.num_steps):
            lr = 0.003 * (phase.global_batch_size / 16) ** 0.5
            warm = round(recipe.reference.warmup_ratio * 16 / 16 * sum(p.num_examples for p in job.phases) / 16) * 16
            total = sum(each.num_examples for each in job.phases)
            after = seen + phase.global_batch_size
            share = after / warm if seen < warm else 1 - (seen - warm) / (total - warm)
            for group in job.optimizer.param_groups:
                group["lr"] = lr * min(share, 1.0)
            batch = phase.examples.read(seen, phase.global_batch_size)
            losses, _ = model(**batch.inputs)
            job.optimizer.zero_grad()
            sum(losses[name] / batch.num_targets[name] for name in losses).backward()
            norm = float(sum_of_squares([p.grad for p in model.parameters()])) ** 0.5
            for p in model.parameters():
                p.grad.mul_(min(1.0, 1.0 / norm))
            job.optimizer.step()
            step, seen = step + 1, after
    result = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    assert result["num_steps"] == step
    ours = torch.cat([p.detach().flatten().double() for p in model.parameters()])
    exported = load_file(tmp_path / "run" / "model" / "model.safetensors")
    theirs = torch.cat([exported[name.removeprefix("net.")].flatten().double() for name, _ in model.named_parameters()])
    assert ((ours - theirs).norm() / ours.norm()).item() < 1e-6


def test_it_resumes_across_every_switch_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = ramped("reference.rule=sde", "engine.checkpoint_every_steps=1")
    whole = train_recipe(recipe, tmp_path / "whole")
    job = build(recipe, Run(tmp_path / "scratch"))
    first, second = job.phases[0].num_steps, job.phases[0].num_steps + job.phases[1].num_steps
    from anybatch.engine import loop

    stops = iter([first - 1, first, first + 1, second, second + 1])
    stop = next(stops)
    take = loop._Course.take_step

    def broken_off(self: Any, here: Any, step: int, *rest: Any) -> Any:
        nonlocal stop
        if step == stop:
            stop = next(stops, -1)
            raise Stopped(f"at step {step}")
        return take(self, here, step, *rest)

    monkeypatch.setattr(loop._Course, "take_step", broken_off)
    for _ in range(5):
        with pytest.raises(Stopped):
            train_recipe(recipe, tmp_path / "parts", resume=True)
    parts = train_recipe(recipe, tmp_path / "parts", resume=True)
    assert parts["final"] == whole["final"]
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(tensor, weights(tmp_path / "parts")[name]), name


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["ramp=64:16"], "a ramp does not shrink"),
        (["ramp=64@0.5,16@0.5"], "phases.1.*|ramp: batch 16 follows 64"),
        (["ramp=16@0.5,64@0.6"], "the shares of the phases must add up to 1"),
        (["ramp=fast"], "expected FIRST:LAST"),
        (["ramp=0:16"], "must be at least 1"),
        (
            ["ramp=16:64", "optimizer.lr=0.1"],
            "optimizer.lr or optimizer.warmup_ratio is set, but a ramp has one schedule",
        ),
        (["ramp=16:64", "phases.1.warmup_ratio=0.1"], "phases.1 sets lr"),
        (["ramp=16:4096", "reference.num_examples=200000"], "larger than the data"),
    ],
)
def test_what_is_no_ramp_is_one_line(tmp_path: Path, assignments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(change(find_recipe("digits-lenet"), [*SMALL[:2], *assignments]), Run(tmp_path))


def test_a_recipe_of_two_phases_is_not_made_a_ramp() -> None:
    with pytest.raises(InputError, match="the recipe has 2 phases"):
        change(find_recipe("bert-mixed"), ["ramp=32:64"])
