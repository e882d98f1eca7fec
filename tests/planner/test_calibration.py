"""This machine and a run of one's own in place of an assumption."""

import json

import pytest

from anybatch.errors import InputError
from anybatch.planner import find_cluster, predict, workload_of
from anybatch.planner.calibration import calibrate
from anybatch.planner.cluster import Mfu
from anybatch.recipes import find_recipe
from anybatch.runs import Run


def test_a_run_calibrates_the_mfu_of_its_precision(tmp_path):
    """A run whose steps took what 40 % of the peak gives: calibration finds the 40 %."""
    recipe = find_recipe("bert-mini")
    cluster = find_cluster("a100-node")
    workload = workload_of(recipe, cluster, "bf16")
    slow = cluster.with_mfu("transformer", "bf16", Mfu(0.4, ""))
    step_s = predict(workload, slow, 1, recipe.phases[0].batch_size)["phases"][0]["step_s"]
    run = Run(tmp_path)
    run.recipe_file.write_text(json.dumps(recipe.model_dump(mode="json")))
    events = [
        {"event": "start", "step": 0, "device": "cuda", "ranks": 1, "micro_batch_sizes": [32], "precision": "bf16"}
    ]
    events += [
        {"event": "train", "step": k + 1, "loss": 1.0, "step_s": step_s * (9 if k < 3 else 1)} for k in range(20)
    ]
    run.metrics_file.write_text("".join(json.dumps(event) + "\n" for event in events))
    changed, found = calibrate(cluster, tmp_path)
    assert found["mfu"] == pytest.approx(0.4, rel=1e-6)
    assert changed.mfu_of("transformer", "bf16").share == found["mfu"]
    assert changed.mfu_of("transformer", "fp32") == cluster.mfu_of("transformer", "fp32")
    run.metrics_file.write_text("".join(json.dumps(event) + "\n" for event in events[:1] + events[1:4]))
    with pytest.raises(InputError, match="3 steps: calibration needs at least 8"):
        calibrate(cluster, tmp_path)
    run.metrics_file.write_text("".join(json.dumps(event) + "\n" for event in events[1:]))
    with pytest.raises(InputError, match="computed on a CPU and says nothing of a100-node"):
        calibrate(cluster, tmp_path)


def test_this_machine_is_measured():
    cluster = find_cluster("this-machine")
    assert cluster.accelerator.peak_flops["fp32"] > 1e8
    assert cluster.accelerator.memory_bytes_per_s > 1e8
    assert predict(workload_of(find_recipe("bert-tiny"), cluster), cluster, 1, 256)["total_s"] > 0
