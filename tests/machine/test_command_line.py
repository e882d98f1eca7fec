"""`anybatch bench` and `anybatch doctor` as a user meets them."""

import json
import sys
from importlib.metadata import PackageNotFoundError

import pytest
import torch

from anybatch.cli import main
from anybatch.machine import bench, shapes


def run(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["anybatch", *arguments])
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    return code, capsys.readouterr()


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
    assert "1 busy neighbour" in said.out
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


def test_doctor_says_what_serves_and_why_not(monkeypatch, capsys):
    from anybatch.optim import kernels

    code, said = run(["doctor", "--json"], monkeypatch, capsys)
    assert code == 0
    found = json.loads(said.out)
    assert found["package"]["torch"] == torch.__version__
    assert set(found["fused step"]) == {"CPU", "CUDA"}
    monkeypatch.setattr(kernels, "_module", lambda device: "the C kernels were not compiled: no compiler")
    _, said = run(["doctor"], monkeypatch, capsys)
    assert "not available: the C kernels were not compiled: no compiler; steps are plain or foreach" in said.out
    assert "pip install --force-reinstall --no-deps --no-binary anybatch anybatch" in said.out


def test_doctor_names_the_command_that_brings_what_is_missing(monkeypatch, capsys):
    from anybatch import environment
    from anybatch.machine import doctor

    declared = ["torch>=2", 'optuna>=4; extra == "study"', 'no-such-package; extra == "hub"', 'mypy; extra == "dev"']
    monkeypatch.setattr(doctor, "requires", lambda name: declared)
    monkeypatch.setattr(environment, "version", lambda name: "1" if name != "no-such-package" else _not_found(name))
    code, said = run(["doctor", "--json"], monkeypatch, capsys)
    assert code == 0
    found = json.loads(said.out)
    assert found["extra"] == {"study": "installed", "hub": "missing no-such-package"}
    assert found["to mend"]["hub"] == "pip install 'anybatch[hub]'"
    assert "study" not in found["to mend"]


def _not_found(name):
    raise PackageNotFoundError(name)
