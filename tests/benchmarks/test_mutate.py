"""The script that damages inputs finds what is wrong with a reader; and a few damaged inputs of every kind."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "reliability" / "mutate.py"

LENIENT = """
import json
from pathlib import Path
from mutate import Kind


def make(folder: Path) -> None:
    (folder / "a.json").write_text('{"a": [1, 2, 3], "b": "x"}')


def careless(folder: Path) -> object:
    value = json.loads((folder / "a.json").read_text(errors="replace").replace(chr(0), ""))
    return value["a"]


KINDS = [Kind("careless", make, careless, lambda folder: json.loads((folder / "a.json").read_text())["a"])]
"""


def run(script: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    found = subprocess.run(
        [sys.executable, script, *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    return found.returncode, json.loads(found.stdout)


def test_a_careless_reader_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "mutate.py").write_text(SCRIPT.read_text())
    (tmp_path / "kinds_careless.py").write_text(LENIENT)
    code, found = run(tmp_path / "mutate.py", "--files", "120")
    assert code == 1
    outcomes = found["outcomes"]
    assert outcomes["traceback"] > 10
    assert outcomes["reference refuses"] > 0
    assert sum(outcomes.values()) == 120


@pytest.mark.slow
def test_damaged_inputs_of_every_kind_are_refused_or_read_as_the_reference_reads_them() -> None:
    code, found = run(SCRIPT, "--files", "30")
    assert code == 0, found["failures"]
    assert found["files"] == 30
