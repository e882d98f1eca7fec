"""Plans: what is chosen, and how what is wrong is said."""

import json
from dataclasses import replace

import pytest
from torch.distributed.run import get_args_parser as torchrun_parser

from anybatch.errors import InputError
from anybatch.planner import NAMED, find_cluster, predict
from anybatch.planner.calibrate import calibrate
from anybatch.planner.command import plan
from anybatch.planner.plan import THRIFT, device_counts, make_plan, parse_duration
from anybatch.recipes import find_recipe
from anybatch.runs import Run


def hours(option):
    return option.num_devices * option.total_s / 3600


def test_without_a_wish_the_point_of_diminishing_returns():
    made = make_plan(NAMED["bert-large"](), find_cluster("a100-node"))
    assert made.chosen is made.knee
    fewest = min(map(hours, made.options))
    assert hours(made.chosen) <= THRIFT * fewest
    faster = [option for option in made.options if option.total_s < made.chosen.total_s]
    assert faster
    assert all(hours(option) > THRIFT * fewest for option in faster)


def test_a_deadline_takes_the_fewest_device_hours_that_meet_it():
    made = make_plan(NAMED["bert-large"](), find_cluster("h100-node"), deadline_s=2 * 3600)
    assert made.chosen.total_s <= 7200
    assert all(hours(option) >= hours(made.chosen) for option in made.options if option.total_s <= 7200)


def test_a_budget_takes_the_fastest_within_it():
    made = make_plan(NAMED["bert-large"](), find_cluster("h100-node"), budget=600)
    assert made.chosen.cost <= 600
    assert all(option.total_s >= made.chosen.total_s for option in made.options if option.cost <= 600)


def test_a_given_number_of_devices_compares_batches():
    made = make_plan(NAMED["resnet50-mlperf"](), find_cluster("h100-node"), num_devices=64)
    assert {option.num_devices for option in made.options} == {64}
    assert len({option.batch_size for option in made.options}) > 3
    assert made.chosen.total_s == min(option.total_s for option in made.options)


def test_more_examples_at_larger_batches_bound_the_batch():
    """Past the critical batch more devices shorten the step, not the run."""
    made = make_plan(NAMED["resnet50-mlperf"](), find_cluster("h100-node"), num_devices=8)
    assert made.chosen.batch_size < max(option.batch_size for option in made.options)


def test_device_counts_are_whole_nodes():
    assert device_counts(find_cluster("h100-node"))[:6] == [1, 2, 4, 8, 16, 32]
    assert device_counts(find_cluster("rtx4090-box")) == [1, 2, 4, 6, 12, 24, 48]


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
        ({"deadline": "1s"}, "nothing is done in 1.0 s; the fastest is"),
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
        plan("bert-large", "h100-node", **arguments)
    assert "\n" not in str(caught.value)


def test_no_batch_is_proposed_whose_warm_up_nobody_has_tried():
    told = json.loads(plan("bert-large-paper", "h100-node", deadline="2h", as_json=True))
    assert told["chosen"]["batch_size"] <= 32_768
    # Asked for, it is still planned.
    assert json.loads(plan("bert-large-paper", "h100-node", devices=512, batch_size=65_536, as_json=True))["chosen"]


def test_unknown_names_are_answered_with_near_ones():
    with pytest.raises(InputError, match="no cluster is called 'h100'; nearest: h100-node"):
        plan("bert-large", "h100")
    with pytest.raises(InputError, match="called 'bert-larg'; nearest: bert-large"):
        plan("bert-larg", "h100-node")
    with pytest.raises(InputError, match="--budget needs a price"):
        plan("bert-large", "tpu-v3-pod", budget=10.0)


def test_a_model_that_fits_nowhere():
    huge = replace(NAMED["bert-large"](), parameters=10**13)
    with pytest.raises(InputError, match="does not fit on 48 x RTX 4090 24 GB: one example a device needs"):
        make_plan(huge, find_cluster("rtx4090-box"))


def test_json_and_text_say_the_same():
    told = json.loads(plan("bert-mini", "h100-node", devices=16, batch_size=1024, as_json=True))
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
    arguments = ["train", "bert-mini", "--batch-size", "1024", "--set", "engine.micro_batch_size=64"]
    assert read.training_script_args[:6] == arguments
    text = plan("bert-mini", "h100-node", devices=16, batch_size=1024)
    assert command in text
    assert "US$" in text


def test_advice_makes_examples_grow(tmp_path):
    advice = tmp_path / "advice.json"
    advice.write_text('{"critical_batch": 512, "reference_batch_size": 32}')
    told = json.loads(plan("bert-tiny", "h100-node", devices=1, batch_size=512, advice=advice, as_json=True))
    assert told["chosen"]["num_examples"] == pytest.approx(500_000 * 2 / (1 + 32 / 512))
    assert f"reference.num_examples={round(told['chosen']['num_examples'])}" in told["commands"][0]
    advice.write_text("{}")
    with pytest.raises(InputError, match="has no critical_batch"):
        plan("bert-tiny", "h100-node", advice=advice)


def test_the_picture(tmp_path):
    pytest.importorskip("matplotlib")
    plan("resnet50", "h100-node", plot=tmp_path / "plan.svg")
    assert "<svg" in (tmp_path / "plan.svg").read_text()
    with pytest.raises(InputError, match=r"must end in \.svg, \.png, \.pdf"):
        plan("resnet50", "h100-node", plot=tmp_path / "plan.bmp")


def test_a_run_calibrates_the_share(tmp_path):
    """A run whose steps took what 40 % of the peak gives: calibration finds the 40 %."""
    from anybatch.planner.accelerators import Achieved
    from anybatch.planner.calibrate import with_share
    from anybatch.planner.from_recipe import workload_of

    recipe = find_recipe("bert-mini")
    workload, cluster = workload_of(recipe), find_cluster("a100-node")
    slow = with_share(cluster, "transformer", Achieved(0.4, ""))
    step_s = predict(workload, slow, 1, recipe.phases[0].batch_size).phases[0].step.total
    run = Run(tmp_path)
    run.recipe_file.write_text(json.dumps(recipe.model_dump(mode="json")))
    events = [{"event": "start", "step": 0, "device": "cuda", "ranks": 1, "micro_batch_sizes": [32]}]
    events += [{"event": "train", "step": k + 1, "step_s": step_s * (9 if k < 3 else 1)} for k in range(20)]
    run.metrics_file.write_text("".join(json.dumps(event) + "\n" for event in events))
    changed, found = calibrate(cluster, tmp_path)
    assert found.share == pytest.approx(0.4, rel=1e-6)
    assert changed.accelerator.achieved["transformer"].share == found.share
    run.metrics_file.write_text("".join(json.dumps(event) + "\n" for event in events[:1] + events[1:4]))
    with pytest.raises(InputError, match="3 steps: calibration needs at least 8"):
        calibrate(cluster, tmp_path)
    run.metrics_file.write_text("".join(json.dumps(event) + "\n" for event in events[1:]))
    with pytest.raises(InputError, match="computed on a CPU and says nothing of a100-node"):
        calibrate(cluster, tmp_path)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("45min", 2700), ("2h", 7200), ("1.5d", 129_600)])
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


def test_this_machine_is_measured():
    cluster = find_cluster("this-machine")
    assert cluster.accelerator.peak_flops_fp32 > 1e8
    assert cluster.accelerator.memory_bytes_per_s > 1e8
    assert predict(NAMED["resnet50"](), cluster, 1, 256).total_s > 0
