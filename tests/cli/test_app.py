"""A shell completes commands, options and names; a pipe gets no colors; what prints a table prints JSON, too."""

import json
import sys
from pathlib import Path

import pytest
from support.command_line import anybatch

from anybatch.cli import app, main


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("anybatch do", "doctor"),
        ("anybatch data ins", "inspect"),
        ("anybatch train --res", "--resume"),
        ("anybatch train bert-ti", "bert-tiny"),
        ("anybatch study reality", "reality-check"),
        ("anybatch plan bert-large-paper --cluster h100-p", "h100-pcie-node"),
        ("anybatch plan published-resnet50-m", "published-resnet50-mlperf"),
    ],
)
def test_a_shell_completes(
    line: str, offered: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_ANYBATCH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    with pytest.raises(SystemExit):
        app(prog_name="anybatch")
    assert offered in capsys.readouterr().out.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_installed(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_ANYBATCH_COMPLETE", f"source_{shell}")
    with pytest.raises(SystemExit):
        app(prog_name="anybatch")
    printed = capsys.readouterr().out
    assert "complete" in printed
    assert "anybatch" in printed


def test_a_pipe_gets_no_colors(tmp_path: Path) -> None:
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
        ["plan", "bert-large-paper", "--cluster", "h100-node", "--devices", "8"],
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
