"""`anybatch bench` as a user meets it."""

import json

import pytest
import torch
from support.command_line import run

from anybatch.machine import bench, shapes


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(shapes.SETS, "tiny", lambda: [(8, 4), (3,)])
    monkeypatch.setattr(bench, "_SAMPLE_S", 1e-4)


def test_a_table_and_a_file(monkeypatch, capsys, tmp_path):
    out = tmp_path / "step.json"
    arguments = ["bench", "--shapes", "tiny", "--repeats", "7", "--busy", "1", "--out", str(out)]
    code, said = run(arguments, monkeypatch, capsys)
    assert code == 0
    assert "tiny: 0.0M parameters in 2 tensors" in said.out
    assert "anybatch LAMB plain" in said.out
    assert "1 busy neighbor" in said.out
    written = json.loads(out.read_text())
    assert written["conditions"]["busy"] == 1
    assert written["environment"]["versions"]["torch"] == torch.__version__


def test_json(monkeypatch, capsys):
    code, said = run(
        ["bench", "--shapes", "tiny", "--repeats", "7", "--algorithm", "lars", "--json"], monkeypatch, capsys
    )
    assert code == 0
    assert json.loads(said.out)["sets"][0]["name"] == "tiny"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "--shapes", "bert"], "no set of shapes is called 'bert'"),
        (["bench", "--repeats", "3"], "repeats 3: must be at least 7"),
        (["bench", "--threads", "many"], "--threads"),
        (["bench", "--shapes", "tiny", "--out", "nowhere/step.json"], "nowhere: no such folder"),
    ],
)
def test_wrong_arguments_end_in_one_line(arguments, message, monkeypatch, capsys):
    code, said = run(arguments, monkeypatch, capsys)
    assert code == 2
    assert said.err.startswith("anybatch: error: ")
    assert said.err.count("\n") == 1
    assert message in said.err
