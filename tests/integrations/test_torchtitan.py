"""torchtitan's container builds anybatch's optimizers from a configuration, saves and loads them."""

import pytest
import torch
from torch import nn

from anybatch import LAMB, LARS, param_groups

try:
    from anybatch.integrations.torchtitan import LayerwiseOptimizers, ParamGroupConfig, lamb
except ModuleNotFoundError:
    # Collected, and left out: a test file that is not collected is a mistake elsewhere.
    pytestmark = pytest.mark.skip(reason="torchtitan is not installed")


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wq, self.attention_norm, self.output = nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.attention_norm(self.wq(x)))


def stepped(net: nn.Module, optimizer: torch.optim.Optimizer, seed: int = 1) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    for _ in range(3):
        net(torch.randn(4, 6)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return [p.detach().clone() for p in net.parameters()]


def test_a_configuration_makes_the_step_of_param_groups() -> None:
    theirs, ours = Named(), Named()
    built = lamb(lr=0.1, weight_decay=0.02, betas=(0.9, 0.99)).build(model_parts=[theirs])
    (inner,) = built.optimizers
    assert isinstance(inner, LAMB)
    own = LAMB(param_groups(ours, 0.02), lr=0.1, betas=(0.9, 0.99))
    for p, other in zip(stepped(theirs, built), stepped(ours, own), strict=True):
        torch.testing.assert_close(p, other, rtol=0, atol=0)
    assert set(inner.trust_ratios()) == {name for name, _ in theirs.named_parameters()}


def test_names_can_be_mixed_with_torchtitans() -> None:
    config = LayerwiseOptimizers.Config(
        implementation="for-loop",
        param_groups=[
            ParamGroupConfig(pattern="norm|bias", optimizer_name="AdamW", optimizer_kwargs={"lr": 0.1}),
            ParamGroupConfig(pattern=".*", optimizer_name="LARS", optimizer_kwargs={"lr": 0.1}),
        ],
    )
    assert [type(each) for each in config.build(model_parts=[Named()]).optimizers] == [torch.optim.AdamW, LARS]


def test_its_checkpoints_go_on_bit_for_bit() -> None:
    net = Named()
    built = lamb(lr=0.1).build(model_parts=[net])
    stepped(net, built)
    saved = {
        name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in built.state_dict().items()
    }
    weights = {name: p.clone() for name, p in net.state_dict().items()}
    expected = stepped(net, built, seed=2)
    other = Named()
    again = lamb(lr=0.1).build(model_parts=[other])
    again.load_state_dict(saved)
    other.load_state_dict(weights)
    for p, before in zip(stepped(other, again, seed=2), expected, strict=True):
        torch.testing.assert_close(p, before, rtol=0, atol=0)


def test_its_schedule_takes_the_reference() -> None:
    from torchtitan.components.optimizer import LRSchedulersContainer

    built = lamb(lr=0.1).build(model_parts=[Named()])
    schedulers = LRSchedulersContainer.Config(warmup_steps=2, total_steps=8).build(optimizers=built, training_steps=8)
    rates = []
    for _ in range(8):
        rates.append(built.optimizers[0].param_groups[0]["lr"])
        built.step()
        schedulers.step()
    assert max(rates) == pytest.approx(0.1)
    assert rates[0] < 0.1 > rates[-1]
