"""The planner against published runs: the paper's table, and MLPerf's, where the data are at hand."""

import csv
from statistics import median

import pytest
from planner_against_the_world import CLUSTER_OF, WORKLOAD_OF, fit_curve, workload_on

from anybatch.planner import PUBLISHED, find_cluster, predict
from anybatch.recipes import RECIPES
from anybatch.recipes.resnet50 import IMAGENET_EXAMPLES


def test_no_published_run_has_the_name_of_a_recipe():
    assert not PUBLISHED.keys() & RECIPES.keys()
    assert all(name.startswith("published-") for name in PUBLISHED)
    for name in PUBLISHED:
        assert workload_on(name, "h100-node").name == name


def test_the_papers_rows_within_a_fifth_and_in_order(paper):
    predicted = []
    for name, optimizer, batch_size, devices, minutes in paper:
        workload = workload_on(name, "tpu-v3-pod").with_optimizer(optimizer)
        found = predict(workload, find_cluster("tpu-v3-pod"), devices, batch_size)
        assert found["total_s"] / 60 == pytest.approx(minutes, rel=0.2), (name, optimizer, batch_size)
        predicted.append(found["total_s"])
    assert predicted == sorted(predicted, reverse=True)
    assert found["num_steps"] == pytest.approx(8599, rel=0.001), "the mixed run's steps, from the shares alone"


def test_nvidias_scaling_to_256_a100():
    """580 sequences a second on one card are fitted; 138,294 on 256 are not."""
    cluster, mixed = find_cluster("a100-node"), workload_on("published-bert-large-mixed", "a100-node")
    one = predict(mixed, cluster, 1, 8192)["phases"][0]
    many = predict(mixed, cluster, 256, 65_536)["phases"][0]
    assert one["batch_size"] / one["step_s"] == pytest.approx(580, rel=0.05)
    assert many["batch_size"] / many["step_s"] == pytest.approx(138_294, rel=0.05)


def test_mlperf_rows(shared_data):
    with open(shared_data / "mlperf" / "time_to_train.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    errors = {}
    for row in rows:
        cluster = next(name for part, name in CLUSTER_OF.items() if part in row["accelerator"])
        workload = workload_on(WORKLOAD_OF[row["benchmark"]], cluster)
        found = predict(workload, find_cluster(cluster), int(row["accelerators"]), int(row["global_batch_size"]))
        errors[row["benchmark"], row["system"]] = abs(found["total_s"] / 60 / float(row["minutes"]) - 1)
    assert median(errors.values()) < 0.05
    assert max(errors.values()) < 0.2, max(errors, key=errors.__getitem__)


@pytest.mark.parametrize("benchmark", ["bert", "resnet"])
def test_examples_at_batches_left_out(shared_data, benchmark):
    with open(shared_data / "mlperf" / "convergence.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["benchmark"] == benchmark]
    scale = IMAGENET_EXAMPLES if benchmark == "resnet" else 1
    batches = [float(row["global_batch_size"]) for row in rows]
    examples = [float(row["mean"]) * scale for row in rows]
    curve = workload_on(WORKLOAD_OF[benchmark], "h100-node").examples
    knots = [batch for batch, _ in curve.points]
    for k in range(1, len(rows) - 1):
        without = fit_curve(batches[:k] + batches[k + 1 :], examples[:k] + examples[k + 1 :], knots, "")
        assert without.at(batches[k]) == pytest.approx(examples[k], rel=0.12), batches[k]
    fitted = fit_curve(batches, examples, knots, "")
    for (_, shipped), (_, found) in zip(curve.points, fitted.points, strict=True):
        assert shipped == pytest.approx(found, rel=0.002), "the shipped knots are the fitted ones"
