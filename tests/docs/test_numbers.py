"""The numbers on the pages are those of the committed files."""

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TUNED = ROOT / "benchmarks" / "results" / "tune-gpt-demo.json"


def test_every_page_is_what_the_committed_files_make_of_its_template() -> None:
    pages = runpy.run_path(str(ROOT / "docs" / "results.py"))["render"]()
    assert len(pages) == 3
    stale = [name for name, text in pages.items() if (ROOT / name).read_text(encoding="utf-8") != text]
    assert stale == [], "run: python docs/results.py"


@pytest.mark.skipif(not TUNED.is_file(), reason="benchmarks/tune_references.py has measured nothing yet")
def test_the_demo_s_rates_are_those_that_tuning_chose() -> None:
    from anybatch.recipes import find_recipe

    tuned = json.loads(TUNED.read_text())
    for name, lr in tuned["chosen"].items():
        assert find_recipe(name).reference.lr == lr
        rates = [row["lr"] for row in tuned["rows"] if row["recipe"] == name]
        assert min(rates) < tuned["best"][name] < max(rates)
