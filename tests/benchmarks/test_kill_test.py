"""A run that is killed again and again ends bit for bit as one that is not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill_test.py"


@pytest.mark.slow
def test_one_kill_of_each_kind(tmp_path: Path) -> None:
    """The benchmark repeats it with any number; here two ranks, and every way once."""
    arguments = [sys.executable, str(SCRIPT), "--kills", "6", "--out", str(tmp_path / "found.json")]
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        arguments, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr or done.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["kills"].values()) == {1}
