"""docs/options.md is what the code says of its options."""

import runpy
from pathlib import Path

import anybatch

SCRIPT = Path(anybatch.__file__).parents[2] / "docs" / "options.py"


def test_the_page_of_options_is_what_stands_under_their_fields() -> None:
    options = runpy.run_path(str(SCRIPT))
    assert options["PAGE"].read_text(encoding="utf-8") == options["render"](), "write it anew: python docs/options.py"
