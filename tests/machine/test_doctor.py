"""`anybatch doctor`: what serves here, and the command that brings what is missing."""

import json
from importlib.metadata import PackageNotFoundError
from typing import Any

import pytest
import torch
from support.command_line import run


def test_doctor_says_what_serves_and_why_not(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from anybatch.optim import kernels

    code, said = run(["doctor", "--json"], monkeypatch, capsys)
    assert code == 0
    found = json.loads(said.out)
    assert found["package"]["torch"] == torch.__version__
    assert set(found["fused step"]) == {"CPU", "CUDA"}
    monkeypatch.setattr(kernels, "kernels_for", lambda device: "the C kernels were not compiled: no compiler")
    _, said = run(["doctor"], monkeypatch, capsys)
    assert "not available: the C kernels were not compiled: no compiler; steps are plain or foreach" in said.out
    assert "pip install --force-reinstall --no-deps --no-binary anybatch anybatch" in said.out


def test_doctor_names_the_command_that_brings_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
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


def _not_found(name: str) -> None:
    raise PackageNotFoundError(name)
