"""The health of runs, from their metrics alone."""

import json
import math

import pytest

from anybatch.comparison.rows import observe
from anybatch.report import write_report


def step(number, **values):
    usual = {"loss": 4.0, "lr": 0.01, "clipped": 0, "skipped": 0, "spike": 0, "step_s": 0.1, "data_wait_s": 0.0}
    return {"event": "train", "step": number, "examples": 8 * number, "phase": 0, **usual, **values}


def test_counts_and_shares():
    events = [
        {"event": "start", "step": 0},
        step(1, clipped=1, data_wait_s=0.02, memory_bytes=10),
        step(2, skipped=1, memory_bytes=30),
        {"event": "save_failed", "step": 2, "message": "disk full"},
        {"event": "start", "step": 2},
        step(3, spike=1, lr=0.002),
        step(4, phase=1, lr=0.0001),
    ]
    health = observe(events)
    assert (health.steps, health.clipped, health.skipped, health.spikes) == (4, 1, (2,), (3,))
    assert health.wait_share == pytest.approx(0.05)
    assert health.starts == 2
    assert health.failed_saves == (2,)
    assert health.memory_bytes == 30


def test_older_and_damaged_metrics_are_read():
    assert observe([]) is None
    assert observe([{"event": "eval", "step": 1}]) is None
    health = observe([{"event": "train", "step": 1, "loss": 3.0, "lr": math.nan, "data_wait_s": "?", "skipped": None}])
    assert (health.clipped, health.wait_share, health.skipped) == (None, None, ())


def test_the_page_says_what_deserves_a_look(write_run, tmp_path):
    run = write_run(tmp_path / "runs" / "odd")
    troubled = [step(n, clipped=1, data_wait_s=0.03, spike=int(n == 7), skipped=int(n < 7)) for n in range(1, 9)]
    troubled.append({"event": "save_failed", "step": 5, "message": "disk full"})
    (run / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in troubled))
    write_report([tmp_path / "runs"], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "odd: 6 steps without a finite gradient, skipped: steps 1, 2, 3, 4, 5 and 1 more." in page
    assert "odd: 1 checkpoint could not be saved: step 5." in page
    assert "odd: the loss jumped 1 time: step 7." in page
    assert "100.0\u202f% of the steps were clipped" in page
    assert "30.0\u202f% of the time went to waiting for data" in page


def test_a_sound_run_and_an_old_one(write_run, tmp_path):
    old = write_run(tmp_path / "old" / "run")
    write_report([old], tmp_path / "old.html")
    assert "How the runs ran" not in (tmp_path / "old.html").read_text()
    sound = write_run(tmp_path / "sound" / "run")
    (sound / "metrics.jsonl").write_text("".join(json.dumps(step(n)) + "\n" for n in range(1, 9)))
    write_report([sound], tmp_path / "sound.html")
    assert (
        "No step was skipped, no loss jumped, and no run waited for its data." in (tmp_path / "sound.html").read_text()
    )
