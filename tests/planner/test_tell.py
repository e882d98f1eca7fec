"""A plan as JSON, picture and command."""

import json
import shlex

import pytest
from torch.distributed.run import get_args_parser as torchrun_parser

from anybatch.errors import InputError
from anybatch.planner.command import plan
from anybatch.recipes import change, find_recipe


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
