"""What the watch sees of a loop, without any library."""

import pytest
import torch
from integrations.loops import BATCH, MICRO_BATCH, Network, by_hand, network
from torch import nn

from anybatch import LAMB, GradientNoiseScale, param_groups
from anybatch.integrations.watching import Watch, unwrapped


def followed(watch: Watch, model: Network, optimizer: LAMB, num_steps: int) -> None:
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    by_hand(model, optimizer, schedule, num_steps, watch.backward_done, watch.gradient_done)


def test_it_measures_what_the_meter_measures() -> None:
    model, other = network(), network()
    optimizer, by = LAMB(param_groups(model), lr=0.02), LAMB(param_groups(other), lr=0.02)
    watch = Watch(model, optimizer, micro_batches=4, noise_every=3)
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


def test_quantiles_are_those_of_all_layers() -> None:
    model = network()
    optimizer = LAMB(param_groups(model), lr=0.02)
    watch = Watch(model, optimizer, micro_batches=4, noise_every=None)
    assert watch.numbers() == {}, "before the first step"
    followed(watch, model, optimizer, 1)
    ratios = torch.tensor([each.ratio for each in optimizer.trust_ratios().values()])
    assert watch.numbers() == {
        f"trust_ratio/{name}": pytest.approx(ratios.quantile(q).item())
        for name, q in {"min": 0.0, "p10": 0.1, "p50": 0.5, "p90": 0.9, "max": 1.0}.items()
    }


def test_other_optimizers_have_the_noise_alone() -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    watch = Watch(model, optimizer, micro_batches=4, noise_every=1)
    followed(watch, model, optimizer, 4)  # type: ignore[arg-type]
    assert set(watch.numbers()) <= {f"noise/{name}" for name in ("gradient_square", "trace", "scale", "low", "high")}
    assert "noise/trace" in watch.numbers() or "noise/scale" in watch.numbers()


def test_a_last_step_of_one_micro_batch_is_left_out() -> None:
    model = network()
    optimizer = LAMB(param_groups(model), lr=0.02)
    watch = Watch(model, optimizer, micro_batches=4, noise_every=1)
    followed(watch, model, optimizer, 3)
    seen = watch.numbers()["noise/scale"]
    model(torch.randn(8, 16), torch.zeros(8, dtype=torch.long))["loss"].backward()
    watch.backward_done()
    watch.gradient_done()
    assert watch.numbers()["noise/scale"] == seen
    followed(watch, model, optimizer, 1)
    assert watch.numbers()["noise/scale"] != seen


def test_evaluation_in_between_counts_nothing() -> None:
    model, other = network(), network()
    watches = []
    for each in (model, other):
        optimizer = LAMB(param_groups(each), lr=0.02)
        watch = Watch(each, optimizer, micro_batches=4, noise_every=1)
        watches.append(watch)

        def evaluate(each: Network = each, watch: Watch = watch) -> None:
            watch.gradient_done()
            if each is other:
                each.eval()
                each(torch.randn(5, 16), torch.zeros(5, dtype=torch.long))
                each.train()
                with torch.no_grad():
                    each(torch.randn(7, 16), torch.zeros(7, dtype=torch.long))

        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
        by_hand(each, optimizer, schedule, 4, watch.backward_done, evaluate)
    assert watches[0].numbers() == watches[1].numbers()


def test_examples_are_counted_in_mappings_and_tuples() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, batch: dict[str, object]) -> torch.Tensor:
            return self.layer(batch["inner"][0]).square().mean()  # type: ignore[index, no-any-return]

    model = Nested()
    watch = Watch(model, torch.optim.SGD(model.parameters(), lr=0.1), micro_batches=2, noise_every=1)
    model({"name": "x", "inner": (torch.randn(6, 3),)}).backward()
    assert watch._examples == 6


def test_an_optimizer_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="none of them the model's: it was made before the model was wrapped"):
        Watch(network(), LAMB(param_groups(network()), lr=0.1), micro_batches=2, noise_every=1)


def test_removed_it_costs_nothing() -> None:
    model = network()
    watch = Watch(model, LAMB(param_groups(model), lr=0.1), micro_batches=2, noise_every=1, is_last=lambda: True)
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
