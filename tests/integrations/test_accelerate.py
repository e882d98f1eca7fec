"""Accelerate, run for real: held to a loop by hand, resumed, watched, and asked for what does not fit together."""

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("accelerate")

import accelerate
from support.loops import BATCH, MICRO_BATCH, Network, by_hand, equal, examples, network
from torch.utils.data import DataLoader, TensorDataset

from anybatch import LAMB, GradientNoiseScale, Reference, param_groups
from anybatch.integrations.accelerate import scaled, scheduler, watch

TUNED = Reference(8, lr=0.01, warmup_ratio=1 / 64, num_examples=512)


class Loop:
    """A loop as a user of Accelerate writes it."""

    def __init__(
        self, clip: float | None = None, noise_every: int | None = 2, *,
        batch_size: int = BATCH, loaded: int = MICRO_BATCH, kind: Any = LAMB,
    ) -> None:  # fmt: skip
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        accelerate.state.GradientState._reset_state()
        self.accelerator = accelerate.Accelerator(cpu=True)
        self.run = scaled(self.accelerator, TUNED, batch_size, MICRO_BATCH)
        self.network = network()
        optimizer = kind(param_groups(self.network), **self.run.optimizer)
        loader = DataLoader(TensorDataset(*examples()), batch_size=loaded)
        self.model, self.optimizer, self.loader, self.scheduler = self.accelerator.prepare(
            self.network, optimizer, loader, scheduler(self.accelerator, optimizer, self.run)
        )
        self.watch = watch(self.accelerator, self.model, self.optimizer, self.scheduler, noise_every=noise_every)
        self.clip, self.taken = clip, 0

    def go(self, num_steps: int) -> list[torch.Tensor]:
        for _ in range(num_steps * BATCH // len(self.loader.dataset) + 1):
            for x, labels in self.loader:
                with self.accelerator.accumulate(self.model):
                    self.accelerator.backward(self.model(x, labels)["loss"])
                    if self.clip is not None and self.accelerator.sync_gradients:
                        self.accelerator.clip_grad_norm_(self.model.parameters(), self.clip)
                    self.optimizer.step()
                    self.scheduler.step()
                    self.optimizer.zero_grad()
                self.taken += self.accelerator.sync_gradients
                if self.taken == num_steps:
                    return [p.detach().clone() for p in self.network.parameters()]
        raise AssertionError("too few examples")


@pytest.mark.parametrize("clip", [None, 0.05])
def test_it_ends_and_measures_as_a_loop_by_hand(clip: float | None) -> None:
    loop = Loop(clip)
    assert loop.accelerator.gradient_accumulation_steps == BATCH // MICRO_BATCH
    loop.go(loop.run.num_steps)
    other = network()
    by = LAMB(param_groups(other), lr=TUNED.at(BATCH).lr)
    noise = GradientNoiseScale(other, every=2)
    schedule = torch.optim.lr_scheduler.LambdaLR(by, TUNED.at(BATCH).schedule)
    count = loop.run.num_steps
    expected = by_hand(other, by, schedule, count, lambda: noise.micro_batch(MICRO_BATCH), noise.step, clip=clip)
    assert equal(loop.network, expected)
    found = loop.watch.numbers()
    assert found["noise/scale"] == pytest.approx(noise.estimate().value, rel=1e-6)
    assert found["trust_ratio/max"] == pytest.approx(
        max(each.ratio for each in by.trust_ratios().values() if each.ratio != 1)
    )


def test_a_saved_state_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop()
    loop.go(8)  # a whole epoch
    loop.accelerator.save_state(str(tmp_path / "state"))
    expected = loop.go(12)
    again = Loop()
    again.accelerator.load_state(str(tmp_path / "state"), load_kwargs={"weights_only": True})
    assert equal(again.network, expected) is False
    again.taken = 8
    again.go(12)
    assert equal(again.network, expected)
    assert again.watch.state_dict() == loop.watch.state_dict(), "steps and noise window go on, too"


@pytest.mark.parametrize(
    ("other", "line"),
    [
        ({"batch_size": 64}, "was made at a global batch of 32, and this run has 64"),
        ({"kind": torch.optim.AdamW}, "the checkpoint is another optimizer's: its groups have phi, betas"),
    ],
)
def test_a_state_of_another_run_is_refused(other: dict[str, Any], line: str, tmp_path: Path) -> None:
    loop = Loop()
    loop.go(8)
    loop.accelerator.save_state(str(tmp_path / "state"))
    again = Loop(**other)
    with pytest.raises(ValueError, match=line):
        again.accelerator.load_state(str(tmp_path / "state"), load_kwargs={"weights_only": True})


def test_a_state_of_another_rate_is_refused_also_if_it_was_not_watched(tmp_path: Path) -> None:
    loop = Loop()
    loop.accelerator.save_state(str(tmp_path / "state"))
    (tmp_path / "state" / "anybatch.json").unlink()
    with pytest.raises(ValueError, match=r"the checkpoint's learning rate is 0\.02, this run's 0\.02828"):
        Loop(batch_size=64).accelerator.load_state(str(tmp_path / "state"), load_kwargs={"weights_only": True})


def test_a_loader_of_another_batch_than_was_said_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"is given 4 examples at once, not micro_batch_size=8, .* batch is not 32"):
        Loop(loaded=4).go(8)


def test_settings_and_batch_are_logged() -> None:
    found = Loop().watch.numbers()
    assert found["global_batch_size"] == BATCH
    assert (found["settings/lr"], found["settings/optimizer/LAMB"]) == (TUNED.at(BATCH).lr, 1)


def test_the_numbers_reach_a_tracker(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loop = Loop()
    tracker = accelerate.tracking.TensorBoardTracker("run", logging_dir=str(tmp_path))
    tracker.start()
    loop.accelerator.trackers = [tracker]
    loop.go(8)
    numbers = loop.watch.numbers()
    loop.accelerator.log(numbers, step=8)
    loop.accelerator.end_training()
    board = EventAccumulator(str(tmp_path / "run")).Reload()
    (event,) = board.Scalars("noise/scale")
    assert (event.step, event.value) == (8, pytest.approx(numbers["noise/scale"]))


def test_a_scheduler_that_stands_still_is_an_error() -> None:
    loop = Loop()
    loop.scheduler.step = lambda: None
    with pytest.raises(ValueError, match="the scheduler has moved 0 times in 2 steps"):
        loop.go(8)


def test_an_optimizer_of_another_model_is_refused() -> None:
    loop = Loop()
    with pytest.raises(ValueError, match="made before the model was wrapped"):
        watch(loop.accelerator, Network(), loop.optimizer)


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "line"),
    [
        (33, 1, "batch_size=33 is not a multiple of 8, which is micro_batch_size=8 on 1 processes"),
        (32, 3, "gradient_accumulation_steps is 3 in the Accelerator, but batch_size=32 takes 4 of 8 examples"),
    ],
)
def test_what_does_not_fit_together_is_refused(batch_size: int, accumulation: int, line: str) -> None:
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulation)
    with pytest.raises(ValueError, match=line):
        scaled(accelerator, TUNED, batch_size, MICRO_BATCH)


class Plugin:
    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


@pytest.mark.parametrize(
    ("plugin", "line"),
    [
        ({"fsdp_plugin": Plugin(fsdp_version=1)}, "FSDP1 flattens the parameters"),
        (
            {"deepspeed_plugin": Plugin(deepspeed_config={"train_micro_batch_size_per_gpu": "auto"})},
            "gradient_accumulation_steps is nothing in the DeepSpeed",
        ),
    ],
)
def test_plugins_that_hide_the_layers_or_the_batch_are_refused(plugin: dict[str, Plugin], line: str) -> None:
    class Other:
        split_batches, num_processes, gradient_accumulation_steps = False, 2, 1
        state = Plugin(**plugin)

    with pytest.raises(ValueError, match=line):
        scaled(Other(), TUNED, BATCH, MICRO_BATCH)  # type: ignore[arg-type]
