"""The numbers on the pages are those of the committed files."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TUNED = ROOT / "benchmarks" / "results" / "tune-gpt-demo.json"
MEASURED = ROOT / "src" / "anybatch" / "study" / "measured.json"


def _page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8").replace("\u202f", " ")


@pytest.mark.skipif(not MEASURED.is_file(), reason="benchmarks/demo_seeds.py has measured nothing yet")
def test_the_demo_s_tables_are_those_of_its_measured_runs() -> None:
    spec = importlib.util.spec_from_file_location("demo_seeds", ROOT / "benchmarks" / "demo_seeds.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    lines = [line.replace("\u202f", " ") for line in module.tables(json.loads(MEASURED.read_text())["rows"])]
    readme, results = _page("README.md"), _page("docs/results.md")
    assert len(lines) == 10
    assert [line for line in lines[:2] if line not in readme] == []
    assert [line for line in lines[2:] if line not in results] == []


@pytest.mark.skipif(not TUNED.is_file(), reason="benchmarks/tune_references.py has measured nothing yet")
def test_the_demo_s_rates_are_those_that_tuning_chose() -> None:
    from anybatch.recipes import find_recipe

    tuned = json.loads(TUNED.read_text())
    for name, lr in tuned["chosen"].items():
        assert find_recipe(name).reference.lr == lr
        rates = [row["lr"] for row in tuned["rows"] if row["recipe"] == name]
        assert min(rates) < tuned["best"][name] < max(rates)
