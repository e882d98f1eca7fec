"""What the documentation shows, runs: every fenced block of Python, in order, page by page."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
FENCED = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", "docs/optimizers.md"])
def test_every_block_runs(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    found = list(FENCED.finditer(text))
    assert found
    assert len(found) == text.count("```python")
    # The model is the reader's.
    names = {"model": torch.nn.Linear(8, 4)}
    for block in found:
        # Blank lines before the code, so that an error names its line on the page.
        exec(compile("\n" * text.count("\n", 0, block.start(1)) + block[1], page, "exec"), names)
