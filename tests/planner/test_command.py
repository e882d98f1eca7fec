"""What `anybatch plan` answers, and how what is wrong is said."""

import pytest

from anybatch.errors import InputError
from anybatch.planner.command import plan
from anybatch.recipes import RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_planned(name):
    told = plan(name, "a100-node", devices=8)
    assert told["chosen"]["total_s"] > 0
    assert told["precision"] in ("fp32", "tf32", "bf16")
    (command,) = told["commands"]
    assert command.startswith(f"anybatch train {name} --batch-size ")


def test_no_batch_is_proposed_whose_warm_up_nobody_has_tried():
    told = plan("bert-large-paper", "h100-node", deadline="2h")
    assert told["chosen"]["batch_size"] <= 32_768
    # Asked for, it is still planned.
    assert plan("bert-large-paper", "h100-node", devices=512, batch_size=65_536)["chosen"]


def test_unknown_names_are_answered_with_near_ones():
    with pytest.raises(InputError, match="no cluster is called 'h100'; nearest: h100-node"):
        plan("bert-large-paper", "h100")
    with pytest.raises(InputError, match="called 'bert-larg'; nearest: bert-"):
        plan("bert-larg", "h100-node")
    with pytest.raises(InputError, match="--budget needs a price"):
        plan("bert-tiny", "tpu-v3-pod", budget=10.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"devices": 0}, "--devices 0: must be at least 1"),
        ({"devices": 12}, "multiple of 8"),
        ({"devices": 10**6}, "has at most 16,384"),
        ({"batch_size": 0}, "--batch-size 0: must be at least 1"),
        ({"batch_size": 16, "devices": 64}, "a batch of 16 .*on 64 devices"),
        ({"batch_size": 10**6}, "allows at most 32768"),
        ({"deadline": "soon"}, "--deadline soon: give a number above 0 and a unit"),
        ({"deadline": "1s"}, "nothing is done in 1 s; the fastest is"),
        ({"budget": 1.0}, "--budget 1: nothing costs so little; the cheapest is"),
        ({"budget": 0.0}, "--budget 0: must be above 0"),
        ({"price": -1.0}, "--price -1.0: must be at least 0"),
        ({"optimizer": "sgdd"}, "optimizer 'sgdd': must be one of lamb"),
        ({"critical_batch": 0.0}, "--critical-batch 0.0: must be a finite number above 0"),
        ({"assignments": ["seed=1"]}, "is a published run"),
    ],
)
def test_nonsense_is_one_clear_line(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        plan("published-bert-large", "h100-node", **arguments)
    assert "\n" not in str(caught.value)


def test_advice_makes_examples_grow(tmp_path):
    advice = tmp_path / "advice.json"
    advice.write_text('{"critical_batch": 512, "reference_batch_size": 32}')
    told = plan("bert-tiny", "h100-node", devices=1, batch_size=512, advice=advice)
    assert told["chosen"]["num_examples"] == pytest.approx(500_000 * 2 / (1 + 32 / 512))
    assert f"reference.num_examples={round(told['chosen']['num_examples'])}" in told["commands"][0]
    advice.write_text("{}")
    with pytest.raises(InputError, match="has no critical_batch"):
        plan("bert-tiny", "h100-node", advice=advice)


def test_another_optimizer_is_planned_with_its_own_moments():
    told = plan("bert-tiny", "h100-node", devices=8, optimizer="momentum")
    assert told["optimizer"] == "momentum"
    assert "--set optimizer.name=momentum" in told["commands"][0]
    published = plan("published-resnet50", "h100-node", devices=8, optimizer="lars")
    assert (published["optimizer"], published["commands"]) == ("lars", [])
