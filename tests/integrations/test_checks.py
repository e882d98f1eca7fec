"""What is said of a run is held to what runs, without any library."""

from typing import Any

import pytest
import torch
from support.loops import network

from anybatch import LAMB, LARS, Layerwise, Reference, param_groups
from anybatch.integrations import checks

TUNED = Reference(8, lr=0.01, warmup_ratio=1 / 64, num_examples=512)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (
            {"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto"},
            "gradient_accumulation_steps is nothing",
        ),
        ({"train_batch_size": 64, "gradient_accumulation_steps": "auto"}, "train_batch_size is 64 .* makes it 32"),
        (
            {"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2},
            "train_micro_batch_size_per_gpu is 4 .* makes it 8",
        ),
        ({"gradient_accumulation_steps": 2}, "train_micro_batch_size_per_gpu is nothing"),
        ({"train_batch_size": "32", "gradient_accumulation_steps": 2}, "train_batch_size is '32' .* makes it 32"),
        ({"train_batch_size": 32, "gradient_accumulation_steps": 2}, ""),
        ({"train_batch_size": 32, "train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 2}, ""),
        ({"train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto"}, ""),
    ],
)
def test_a_deepspeed_configuration_agrees_or_is_refused(config: dict[str, Any], line: str) -> None:
    if not line:
        checks.check_deepspeed(config, 32, 8, 2)
    else:
        with pytest.raises(ValueError, match=line):
            checks.check_deepspeed(config, 32, 8, 2)


KINDS: dict[str, Any] = {
    "AdamW": torch.optim.AdamW,
    "LAMB": LAMB,
    "LARS": lambda groups: LARS(groups, lr=0.1),
    "Layerwise-AdamW": lambda groups: Layerwise(torch.optim.AdamW(groups)),
    "SGD": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9),
}


@pytest.mark.parametrize("here", KINDS)
@pytest.mark.parametrize("there", KINDS)
def test_the_state_of_another_optimizer_is_refused(here: str, there: str) -> None:
    model = network()
    saved = KINDS[there](param_groups(model, 0.01)).state_dict()
    optimizer = KINDS[here](param_groups(model, 0.01))
    checks.refuse_other_states(optimizer)
    if here == there:
        optimizer.load_state_dict(saved)
    else:
        with pytest.raises(ValueError, match="the checkpoint is another optimizer's: its groups have"):
            optimizer.load_state_dict(saved)


def test_a_schedule_refuses_the_state_of_another_rate() -> None:
    def schedule(batch_size: int) -> Any:
        run = TUNED.at(batch_size)
        return checks.ScaledLR(LAMB(param_groups(network()), lr=run.lr), run.schedule)

    schedule(32).load_state_dict(schedule(32).state_dict())
    with pytest.raises(ValueError, match=r"the checkpoint's learning rate is 0\.02, this run's 0\.04"):
        schedule(128).load_state_dict(schedule(32).state_dict())


def test_what_is_no_class_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"kind='lamb' is not an optimizer's class, such as anybatch\.LAMB"):
        checks.check_kind("lamb")


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "10", True])
def test_every_how_many_steps_is_an_int_of_at_least_one(wrong: Any) -> None:
    with pytest.raises(ValueError, match=f"^noise_every={wrong!r} is not an int of at least 1"):
        checks.check_noise_every(wrong)


def test_an_optimizer_in_place_of_its_class_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^kind=LAMB .* is not an optimizer's class, such as anybatch.LAMB$"):
        checks.check_kind(LAMB(network().parameters()))


def test_a_version_of_fsdp_that_is_no_number_is_not_ours_to_refuse() -> None:
    checks.check_fsdp("newest", "fsdp_version=2")
    with pytest.raises(ValueError, match="FSDP1 flattens"):
        checks.check_fsdp("1", "fsdp_version=2")
