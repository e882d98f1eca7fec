"""Runs the command line as a user does, in a separate process or in this one."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from anybatch.cli import main
from anybatch.process import SUPERVISOR


def anybatch(
    *arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`anybatch ARGUMENTS` in the folder `cwd`, on one thread, with everything it printed."""
    return subprocess.run(
        [sys.executable, "-m", "anybatch", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def started_by(supervisor: int) -> dict[int, int]:
    """The processes that a supervisor has started, and theirs, with the number of the rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            variables = dict(each.partition(b"=")[::2] for each in (folder / "environ").read_bytes().split(b"\0"))
            if variables.get(SUPERVISOR.encode(), b"").startswith(b"%d:" % supervisor):
                found[int(folder.name)] = int(variables[b"RANK"])
    return found


def run(
    arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[Any, Any]:
    """Runs `anybatch ARGUMENTS` in this process; returns the exit code, and what it printed."""
    monkeypatch.setattr(sys, "argv", ["anybatch", *arguments])
    code: Any = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    return code, capsys.readouterr()


def error_line(result: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that failed; anything else on standard error is a defect."""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("anybatch: error: "), lines[0]
    return lines[0]
