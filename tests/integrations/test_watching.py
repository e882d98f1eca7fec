"""What the watch sees of a loop, without any library."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
import torch
import torch.distributed as dist
from support.loops import BATCH, MICRO_BATCH, Network, by_hand, network
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from anybatch import LAMB, GradientNoiseScale, param_groups
from anybatch.integrations.checks import unwrapped
from anybatch.integrations.watching import Watch


def followed(watch: Watch, model: Network, optimizer: LAMB, num_steps: int) -> None:
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    by_hand(model, optimizer, schedule, num_steps, watch.backward_done, watch.gradient_done, watch.saw)


def test_it_measures_what_the_meter_measures() -> None:
    model, other = network(), network()
    optimizer, by = LAMB(param_groups(model), lr=0.02), LAMB(param_groups(other), lr=0.02)
    watch = Watch(model, optimizer, accumulation=4, noise_every=3)
    followed(watch, model, optimizer, 12)
    noise = GradientNoiseScale(other, every=3)
    schedule = torch.optim.lr_scheduler.ConstantLR(by, 1.0)
    by_hand(other, by, schedule, 12, lambda: noise.micro_batch(MICRO_BATCH), noise.step)
    found, expected = watch.numbers(), noise.estimate()
    assert expected.num_steps == 4
    assert found["noise/scale"] == expected.value
    assert found["noise/low"] == expected.low
    squares, traces = noise.history()
    assert found["noise/gradient_square"] == pytest.approx(sum(squares) / 4)
    assert found["noise/trace"] == pytest.approx(sum(traces) / 4)
    again = watch.numbers()
    assert "noise/trace" not in again, "each measured step is told once"
    assert again["noise/scale"] == found["noise/scale"]


def test_quantiles_are_those_of_the_adapted_layers() -> None:
    model = network()
    optimizer = LAMB(param_groups(model), lr=0.02)
    watch = Watch(model, optimizer, accumulation=4, noise_every=None)
    assert watch.numbers() == {}, "before the first step"
    followed(watch, model, optimizer, 1)
    ratios = torch.tensor([optimizer.trust_ratios()[name].ratio for name in ("net.0.weight", "net.3.weight")])
    assert watch.numbers() == {"global_batch_size": BATCH} | {
        f"trust_ratio/{name}": pytest.approx(ratios.quantile(q).item())
        for name, q in {"min": 0.0, "p10": 0.1, "p50": 0.5, "p90": 0.9, "max": 1.0}.items()
    }


def test_other_optimizers_have_the_noise_alone() -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    watch = Watch(model, optimizer, accumulation=4, noise_every=1)
    followed(watch, model, optimizer, 4)  # type: ignore[arg-type]
    found = watch.numbers()
    assert "noise/trace" in found
    assert not any(name.startswith("trust_ratio") for name in found)


def test_a_last_step_of_one_micro_batch_is_left_out() -> None:
    model = network()
    optimizer = LAMB(param_groups(model), lr=0.02)
    watch = Watch(model, optimizer, accumulation=4, noise_every=1)
    followed(watch, model, optimizer, 3)
    assert "noise/trace" in watch.numbers()
    batch = torch.randn(8, 16), torch.zeros(8, dtype=torch.long)
    watch.saw(batch)
    model(*batch)["loss"].backward()
    watch.backward_done()
    watch.gradient_done()
    model.zero_grad()
    assert "noise/trace" not in watch.numbers()
    followed(watch, model, optimizer, 1)
    assert "noise/trace" in watch.numbers()


def test_by_hooks_it_sees_the_same_and_evaluation_counts_nothing() -> None:
    told, hooked = network(), network()
    first = Watch(told, by := LAMB(param_groups(told), lr=0.02), accumulation=4, noise_every=1)
    followed(first, told, by, 4)
    optimizer = LAMB(param_groups(hooked), lr=0.02)
    passes = iter(range(1, 1000))
    second = Watch(hooked, optimizer, accumulation=4, noise_every=1, is_last=lambda: next(passes) % 4 == 0)

    def evaluate() -> None:
        with torch.no_grad():
            hooked(torch.randn(7, 16), torch.zeros(7, dtype=torch.long))
        hooked.eval()
        hooked(torch.randn(5, 16), torch.zeros(5, dtype=torch.long))
        hooked.train()

    by_hand(hooked, optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0), 4, before_step=evaluate)
    assert second.numbers() == first.numbers()
    assert "noise/scale" in first.numbers()


def test_a_scheduler_that_is_stepped_once_an_epoch_is_told_from_one_that_is_not() -> None:
    model = network()
    optimizer = LAMB(param_groups(model), lr=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1.0)
    watch = Watch(model, optimizer, accumulation=4, noise_every=None, scheduler=schedule)
    by_hand(model, optimizer, schedule, 8, before_step=watch.gradient_done)
    watch = Watch(model, optimizer, accumulation=4, noise_every=None, scheduler=schedule)
    with pytest.raises(ValueError, match="has moved 0 times in 2 steps: warm-up and decay count steps, not epochs"):
        followed(watch, model, optimizer, 8)


def test_examples_are_counted_in_mappings_and_tuples() -> None:
    model = network()
    watch = Watch(model, torch.optim.SGD(model.parameters(), lr=0.1), accumulation=2, noise_every=1)
    watch.saw({"name": "x", "weight": torch.tensor(1.0), "inner": (torch.randn(6, 3),)}, 0)
    assert watch.num_examples == 6


def test_an_optimizer_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="none of them the model's: it was made before the model was wrapped"):
        Watch(network(), LAMB(param_groups(network()), lr=0.1), accumulation=2, noise_every=1)


def test_removed_it_costs_nothing() -> None:
    model = network()
    watch = Watch(model, LAMB(param_groups(model), lr=0.1), accumulation=2, noise_every=1, is_last=lambda: True)
    watch.remove()
    assert not model._forward_pre_hooks
    assert not any(p._backward_hooks for p in model.parameters())


def test_a_wrapper_is_looked_through() -> None:
    class Wrapper(torch.optim.Optimizer):
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.optimizer = optimizer

    inner = LAMB(param_groups(network()), lr=0.1)
    assert unwrapped(Wrapper(Wrapper(inner))) is inner
    assert BATCH == 4 * MICRO_BATCH


@pytest.mark.parametrize("synchronized", [True, False])
def test_fsdp2_is_measured_if_each_micro_batch_is_synchronized(
    synchronized: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without, that is said once, and the loop goes on."""
    plain = network()
    by = LAMB(param_groups(plain), lr=0.02)
    expected = Watch(plain, by, accumulation=4, noise_every=1)
    followed(expected, plain, by, 4)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        model = fully_shard(network(), mesh=init_device_mesh("cpu", (1,)))
        optimizer = LAMB(param_groups(model), lr=0.02)
        passes = iter(range(1, 1000))
        watch = Watch(model, optimizer, accumulation=4, noise_every=1, is_last=lambda: next(passes) % 4 == 0)
        begun = iter(range(1, 1000))

        def before(*_: torch.Tensor) -> None:
            model.set_requires_gradient_sync(synchronized or next(begun) % 4 == 0)

        by_hand(model, optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0), 4, before=before)
    finally:
        dist.destroy_process_group()
    found = watch.numbers()
    assert found["trust_ratio/max"] == pytest.approx(expected.numbers()["trust_ratio/max"], rel=1e-5)
    if synchronized:
        assert watch.no_noise is None
        assert found["noise/trace"] > 0
    else:
        assert [record.getMessage() for record in caplog.records] == [f"anybatch: {watch.no_noise}"]
        assert "sync_each_batch=True" in str(watch.no_noise)
        assert "noise/trace" not in found


def test_a_gradient_that_is_not_the_sum_of_its_micro_batches_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    model = network()
    optimizer = LAMB(param_groups(model), lr=0.02)
    watch = Watch(model, optimizer, accumulation=4, noise_every=1)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)

    def clipped() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        watch.gradient_done()

    by_hand(model, optimizer, schedule, 4, watch.backward_done, clipped, watch.saw)
    assert "noise/trace" not in watch.numbers() | watch.numbers()
    (record,) = caplog.records
    assert "was not the sum of what the micro-batches gave" in record.getMessage()


def test_passes_of_another_size_than_was_said_are_an_error_at_the_second() -> None:
    """The last batch of an epoch may be smaller, and a row of packed examples shows no number of them."""
    model = network()
    optimizer = LAMB(param_groups(model), lr=0.1)
    watch = Watch(model, optimizer, accumulation=4, noise_every=None, batch_size=64, micro_batch_size=16)
    watch.saw(torch.randn(1, 90))
    watch.saw(torch.randn(3, 16))
    with pytest.raises(ValueError, match=r"is given 8 examples at once, not micro_batch_size=16, .* batch is not 64"):
        watch.saw(torch.randn(8, 16))
    watch = Watch(model, optimizer, accumulation=4, noise_every=None, batch_size=64, micro_batch_size=16)
    watch.saw(torch.randn(99, 3), torch.randn(16, 4))
    watch.saw(torch.randn(3, 16))
    watch.saw(torch.randn(3, 16))


def test_a_scheduler_of_two_steps_an_epoch_that_is_stepped_once_is_found() -> None:
    model = network()
    optimizer = LAMB(param_groups(model), lr=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1.0)
    watch = Watch(model, optimizer, accumulation=4, noise_every=None, scheduler=schedule)
    step, steps = schedule.step, iter(range(1, 99))
    schedule.step = lambda: step() if next(steps) % 2 == 0 else None  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="has moved 1 times in 3 steps"):
        followed_by(watch, model, optimizer, schedule, 8)


def followed_by(watch: Watch, model: Network, optimizer: LAMB, schedule: Any, num_steps: int) -> None:
    by_hand(model, optimizer, schedule, num_steps, watch.backward_done, watch.gradient_done, watch.saw)


def test_steps_that_overflow_are_none_that_a_scheduler_misses() -> None:
    model = network()
    optimizer = LAMB(param_groups(model), lr=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1.0)
    watch = Watch(model, optimizer, accumulation=1, noise_every=None, scheduler=schedule)
    for _ in range(5):
        watch.gradient_done()


def test_the_window_and_the_steps_go_on_in_a_resumed_run() -> None:
    model = network()
    optimizer = LAMB(param_groups(model), lr=0.02)
    whole = Watch(model, optimizer, accumulation=4, noise_every=2, batch_size=BATCH)
    followed(whole, model, optimizer, 7)
    saved = json.loads(json.dumps(whole.state_dict()))
    again = Watch(model, optimizer, accumulation=4, noise_every=2, batch_size=BATCH)
    again.load_state_dict(saved)
    assert again.num_steps == 7
    assert again.numbers() | whole.numbers() == again.numbers() | {"noise/trace": ANY, "noise/gradient_square": ANY}
    assert again.state_dict() == saved
    with pytest.raises(ValueError, match="was made at a global batch of 32, and this run has 64"):
        Watch(model, optimizer, accumulation=4, noise_every=2, batch_size=64).load_state_dict(saved)
    late = Watch(model, optimizer, accumulation=4, noise_every=2)
    late.load_state_dict(saved)
    with pytest.raises(ValueError, match="was made at a global batch of 32, and this run has 64"):
        late.saw(torch.randn(16, 16))


def test_settings_are_told_once_and_wrong_intervals_are_refused() -> None:
    model = network()
    optimizer = LAMB(param_groups(model), lr=0.1)
    watch = Watch(model, optimizer, accumulation=2, noise_every=1, settings={"settings/lr": 0.1})
    assert watch.numbers()["settings/lr"] == 0.1
    assert "settings/lr" not in watch.numbers()
    for wrong in (0, -3, 2.5, "often"):
        with pytest.raises(ValueError, match=f"noise_every={wrong!r} is not an int of at least 1, or None"):
            Watch(model, optimizer, accumulation=2, noise_every=wrong)  # type: ignore[arg-type]
