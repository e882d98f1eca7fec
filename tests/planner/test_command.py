"""What `anybatch plan` answers: JSON, a picture and commands; and how what is wrong is said."""

import json
import shlex

import pytest
from torch.distributed.run import get_args_parser as torchrun_parser

from anybatch.errors import InputError
from anybatch.planner.command import plan
from anybatch.recipes import RECIPES, change, find_recipe


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


def test_a_plan_is_json_whose_parts_add_up():
    told = plan("bert-mini", "h100-node", devices=16, batch_size=1024)
    chosen = told["chosen"]
    parts = chosen["phases"][0]["step_parts_s"]
    assert sum(parts.values()) == pytest.approx(chosen["phases"][0]["step_s"])
    assert chosen["training_s"] == pytest.approx(chosen["num_steps"] * chosen["phases"][0]["step_s"])
    total = chosen["start_s"] + chosen["training_s"] + chosen["evaluation_s"] + chosen["checkpoint_s"]
    assert chosen["total_s"] == pytest.approx(total)
    assert chosen["cost"] == pytest.approx(told["price"] * 16 * total / 3600)
    (command,) = told["commands"]
    assert command.startswith("torchrun --nnodes=2 --nproc-per-node=8 --node-rank=$NODE_RANK ")
    read = torchrun_parser().parse_args(command.replace("$NODE_RANK", "1").split()[1:])
    assert (read.module, read.training_script, read.node_rank) == (True, "anybatch", 1)
    arguments = ["train", "bert-mini", "--batch-size", "1024", "--set", f"engine.precision={told['precision']}"]
    assert read.training_script_args[:6] == arguments
    json.dumps(told)


def test_on_one_machine_the_command_is_the_houses_own():
    (command,) = plan("bert-mini", "h100-node", devices=8, batch_size=1024)["commands"]
    assert command.endswith(" --run runs/bert-mini-b1024 --nproc 8")
    (alone,) = plan("bert-mini", "h100-node", devices=1, batch_size=1024)["commands"]
    assert "--nproc" not in alone


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_command_sets_what_the_plan_supposes(precision):
    asked = [f"engine.precision={precision}"]
    told = plan("bert-large-paper", "rtx4090-box", devices=6, assignments=asked)
    words = shlex.split(told["commands"][0])
    given = [words[k + 1] for k, word in enumerate(words) if word == "--set"]
    engine = change(find_recipe("bert-large-paper"), given).engine
    assert told["precision"] == engine.precision == precision
    assert len([each for each in given if each.startswith("engine.precision=")]) == 1
    layout = told["chosen"]["phases"][0]["layout"]
    assert ("FSDP" in layout, "checkpointing" in layout) == (engine.parallel == "fsdp", engine.activation_checkpointing)


def test_fp32_is_not_planned_as_tf32_unless_torch_computes_so():
    fast, slow, images = (
        plan(name, "h100-node", devices=8, assignments=[f"engine.precision={precision}"])
        for name, precision in (("bert-large-paper", "bf16"), ("bert-large-paper", "fp32"), ("resnet50-paper", "fp32"))
    )
    assert slow["chosen"]["training_s"] > 5 * fast["chosen"]["training_s"]
    assert (slow["precision"], images["precision"]) == ("fp32", "tf32")
    assert "FP8" not in fast["mfu_source"]


def test_the_picture(tmp_path):
    pytest.importorskip("matplotlib")
    plan("published-resnet50", "h100-node", plot=tmp_path / "plan.svg")
    assert "<svg" in (tmp_path / "plan.svg").read_text()
    with pytest.raises(InputError, match=r"must end in \.svg, \.png, \.pdf"):
        plan("published-resnet50", "h100-node", plot=tmp_path / "plan.bmp")
