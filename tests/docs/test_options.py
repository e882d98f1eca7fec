"""docs/options.md is what the code says of its options."""

import importlib.util
from pathlib import Path

import anybatch

SCRIPT = Path(anybatch.__file__).parents[2] / "docs" / "options.py"


def test_the_page_of_options_is_what_stands_under_their_fields() -> None:
    spec = importlib.util.spec_from_file_location("options", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    options = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(options)
    assert options.PAGE.read_text(encoding="utf-8") == options.render(), "write it anew: python docs/options.py"
