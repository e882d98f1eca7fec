"""The script for a day on a GPU, on a CPU: that its sections run, and that one that fails or hangs costs no other."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from gpu.day import about, needed
from gpu.sections import SECTIONS

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu" / "all.py"
# Of the limit of a command on a borrowed machine; the rest is for starting Python and importing.
PART_S = 590
FAILING = """
import sys, time
from argparse import Namespace
from pathlib import Path
from gpu import all as script
from gpu.day import about
from gpu.sections import Section

def fails(day):
    day.figure("first", 1.0)
    day.note("text", "kept")
    raise ValueError("broken on purpose")

def hangs(day):
    day.figure("first", 2.0)
    time.sleep(60)

def unknown(day):
    day.figure("no such figure", 3.0)

def dies(day):
    import os
    os.kill(os.getpid(), 9)

out = Path(sys.argv[1])
given = Namespace(out=out, device="cpu", tiny=True, cifar=None, shards=None, squad=None)
expected = {"first": about("s", (0, 1)), "second": about("s", (0, 1))}
for limit_s, run in ((30, fails), (2, hangs), (30, unknown), (30, dies)):
    assert not script.take(Section(run.__name__, 1, limit_s, run, expected), given)
"""

# As where something that is imported asks the driver: a fork could not use the GPU.
NEW_PROCESSES = """
import sys
import torch
from argparse import Namespace
from pathlib import Path
from gpu import all as script
from gpu.commands import anybatch
from gpu.day import Day

out = Path(sys.argv[1])
torch.cuda._is_in_bad_fork = lambda: True
ran = anybatch(Day(torch.device("cpu"), True, out, out / "found.json", {}), "recipes")
assert ran.code == 0 and "bert-large-paper" in ran.text, ran
sys.argv[1:] = ["--device", "cpu", "--tiny", "--out", str(out), "--only", "environment"]
sys.exit(script.main())
"""


def run(*arguments: str | Path, timeout: int = 280) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(SCRIPT.parents[2] / "src"), str(SCRIPT.parents[1])])
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.mark.slow
def test_the_whole_day_runs_on_a_cpu_with_toy_sizes(tmp_path):
    ran = run(SCRIPT, "--device", "cpu", "--tiny", "--out", tmp_path)
    found = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    endings = {name: (section["outcome"], section.get("why", "")) for name, section in found.items()}
    assert list(found) == [section.name for section in SECTIONS]
    assert all(outcome in ("done", "skipped in part") for outcome, _ in endings.values()), endings
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for section in SECTIONS:
        figures = found[section.name]["figures"]
        assert list(figures) == list(section.expected)
        assert any(figure["value"] is not None for figure in figures.values()), section.name
        for name, figure in figures.items():
            bounds = section.expected[name]
            assert figure["expected"] == {"H100": list(bounds.h100), "H200": list(bounds.h200)}
            told = (
                figure["reason"].startswith(("no GPU", "skipped: ", "left out", "no peak")) if "reason" in figure else 1
            )
            assert (figure["value"] is None) == ("reason" in figure), name
            assert told, (name, figure)


def test_a_section_that_fails_or_hangs_keeps_what_it_found_and_costs_no_other(tmp_path):
    ran = run("-c", FAILING, tmp_path)
    assert ran.returncode == 0, ran.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    assert [section["outcome"] for section in found.values()] == ["failed", "ended at its limit", "failed", "failed"]
    fails, hangs, unknown, dies = found.values()
    assert fails["why"] == "ValueError: broken on purpose"
    assert fails["notes"] == {"text": "kept"}
    assert [fails["figures"][name]["value"] for name in ("first", "second")] == [1.0, None]
    assert hangs["figures"]["first"]["value"] == 2.0
    assert hangs["figures"]["second"]["reason"] == "ended after 2 s"
    assert "no such figure" in unknown["why"]
    assert dies["why"] == "the process ended with exit code -9"
    assert "broken on purpose" in (tmp_path / "fails.log").read_text()


@pytest.mark.slow
def test_where_a_fork_could_not_use_the_gpu_sections_and_commands_start_anew(tmp_path):
    ran = run("-c", NEW_PROCESSES, tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    section = json.loads((tmp_path / "gpu.json").read_text())["sections"]["environment"]
    assert section["outcome"] == "done", section
    assert section["figures"]["copy"]["value"] > 0


@pytest.mark.parametrize("part", [1, 2, 3])
def test_a_part_ends_before_ten_minutes_whatever_its_sections_do(part):
    assert 0 < sum(section.limit_s for section in SECTIONS if section.part == part) <= PART_S


def test_names_of_sections_differ():
    names = [section.name for section in SECTIONS]
    assert len(set(names)) == len(names) == 14


def test_a_range_belongs_to_its_card_and_what_is_needed_to_every_device():
    copy = about("TB/s", (2.5, 3.4), (3.6, 4.8))
    assert copy.verdict(3.0, "NVIDIA H100 80GB HBM3") == "inside"
    assert copy.verdict(3.0, "NVIDIA H200") == "outside"
    assert copy.verdict(3.0, "CPU") == "no range for this device"
    loss = needed("relative", 0, 1e-4)
    assert loss.verdict(1e-5, "CPU") == "inside"
    assert loss.verdict(1e-3, "NVIDIA A100") == "wrong"
    assert loss.verdict(float("nan"), "NVIDIA H100") == "wrong"
    assert loss.verdict(None, "CPU") == "not measured"
    assert needed("code", 2, None).verdict(7.0, "CPU") == "inside"


def test_a_section_that_does_not_exist_is_named(tmp_path):
    ran = run(SCRIPT, "--device", "cpu", "--tiny", "--out", tmp_path, "--only", "steps")
    assert ran.returncode == 1
    assert "no such section; there are environment, step" in ran.stderr
