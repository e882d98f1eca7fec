"""A shell completes commands, options and names; a pipe gets no colours; what prints a table prints JSON, too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import anybatch

from anybatch.cli import main

COMPLETE = "from anybatch.cli import app; app(prog_name='anybatch')"


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("anybatch do", "doctor"),
        ("anybatch data ins", "inspect"),
        ("anybatch train --res", "--resume"),
        ("anybatch train bert-ti", "bert-tiny"),
        ("anybatch study reality", "reality-check"),
        ("anybatch plan bert-large --cluster h100-p", "h100-pcie-node"),
        ("anybatch plan resnet50-m", "resnet50-mlperf"),
    ],
)
def test_a_shell_completes(line: str, offered: str) -> None:
    words = line.split()
    environment = {
        **os.environ,
        "_ANYBATCH_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", COMPLETE], env=environment, capture_output=True, text=True, timeout=100
    )
    assert offered in done.stdout.split(), done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_installed(shell: str) -> None:
    environment = {**os.environ, "_ANYBATCH_COMPLETE": f"source_{shell}"}
    done = subprocess.run(
        [sys.executable, "-c", COMPLETE], env=environment, capture_output=True, text=True, timeout=100
    )
    assert "complete" in done.stdout
    assert "anybatch" in done.stdout


def test_a_pipe_gets_no_colours(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n\n\n".join(f"Document {n} begins. It has a second sentence, {n}." for n in range(30)))
    shards = tmp_path / "shards"
    prepared = anybatch("data", "prepare", texts, "--out", shards, "--vocabulary-size", "300", cwd=tmp_path)
    assert prepared.returncode == 0, prepared.stderr
    for arguments in (("data", "inspect", shards), ("--help",), ("train", "bert-tinny")):
        result = anybatch(*arguments, cwd=tmp_path, env={"TERM": "xterm-256color"})
        assert "\x1b" not in prepared.stdout + prepared.stderr + result.stdout + result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["recipes"],
        ["doctor"],
        ["plan", "bert-large", "--cluster", "h100-node", "--devices", "8"],
        ["train", "digits-lenet", "--dry-run"],
        ["study", "demo", "--dry-run"],
    ],
)
def test_tables_are_json_by_choice(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["anybatch", *arguments, "--json"])
    main()
    assert json.loads(capsys.readouterr().out)
