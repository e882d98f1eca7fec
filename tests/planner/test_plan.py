"""Plans: which batch on how many devices is chosen."""

from dataclasses import replace

import pytest
from planner_against_the_world import workload_on

from anybatch.errors import InputError
from anybatch.planner import find_cluster
from anybatch.planner.plan import THRIFT, device_counts, make_plan, parse_duration


def hours(option):
    return option["devices"] * option["total_s"] / 3600


def test_without_a_wish_the_point_of_diminishing_returns():
    made = make_plan(workload_on("published-bert-large", "a100-node"), find_cluster("a100-node"))
    assert {name: made["chosen"][name] for name in ("devices", "batch_size")} == made["diminishing_returns"]
    fewest = min(map(hours, made["options"]))
    assert hours(made["chosen"]) <= THRIFT * fewest
    faster = [option for option in made["options"] if option["total_s"] < made["chosen"]["total_s"]]
    assert faster
    assert all(hours(option) > THRIFT * fewest for option in faster)


def test_a_deadline_takes_the_fewest_device_hours_that_meet_it():
    made = make_plan(workload_on("published-bert-large", "h100-node"), find_cluster("h100-node"), deadline_s=2 * 3600)
    assert made["chosen"]["total_s"] <= 7200
    assert all(hours(option) >= hours(made["chosen"]) for option in made["options"] if option["total_s"] <= 7200)


def test_a_budget_takes_the_fastest_within_it():
    made = make_plan(workload_on("published-bert-large", "h100-node"), find_cluster("h100-node"), budget=600)
    assert made["chosen"]["cost"] <= 600
    assert all(option["total_s"] >= made["chosen"]["total_s"] for option in made["options"] if option["cost"] <= 600)


def test_a_given_number_of_devices_compares_batches():
    made = make_plan(workload_on("published-resnet50-mlperf", "h100-node"), find_cluster("h100-node"), num_devices=64)
    assert {option["devices"] for option in made["options"]} == {64}
    assert len({option["batch_size"] for option in made["options"]}) > 3
    assert made["chosen"]["total_s"] == min(option["total_s"] for option in made["options"])


def test_more_examples_at_larger_batches_bound_the_batch():
    """Past the critical batch more devices shorten the step, not the run."""
    made = make_plan(workload_on("published-resnet50-mlperf", "h100-node"), find_cluster("h100-node"), num_devices=8)
    assert made["chosen"]["batch_size"] < max(option["batch_size"] for option in made["options"])


def test_device_counts_are_whole_nodes():
    assert device_counts(find_cluster("h100-node"))[:6] == [1, 2, 4, 8, 16, 32]
    assert device_counts(find_cluster("rtx4090-box")) == [1, 2, 4, 6, 12, 24, 48]


def test_a_model_that_fits_nowhere():
    huge = replace(workload_on("published-bert-large", "rtx4090-box"), parameters=10**13)
    with pytest.raises(InputError, match="does not fit on 48 x RTX 4090 24 GB: one example a device needs"):
        make_plan(huge, find_cluster("rtx4090-box"))


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("45min", 2700), ("2h", 7200), ("1.5d", 129_600)])
def test_durations(text, seconds):
    assert parse_duration(text) == seconds
