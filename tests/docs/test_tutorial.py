"""The tutorial as a user goes through it: its Python in one process, then its commands."""

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
from support.documented import ROOT, commands, python_blocks

from anybatch.cli import app

pytest.importorskip("accelerate")


@pytest.mark.slow
def test_from_a_plain_script_to_a_page_that_compares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "tutorial-trainer.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for line, code in python_blocks(text):
        exec(compile("\n" * line + code, "tutorial-trainer.md", "exec"), names)
    rates = sorted(names["found"])
    assert rates[0] < names["best"] < rates[-1], "the best rate has a worse one on either side"
    tuned = names["trainer"].state.log_history[-2]["eval_loss"]
    assert names["loss"] < 1.05 * tuned, "what the page says of both, and the report with it"
    said = {}
    for words in commands(text):
        if words[0] == "anybatch":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                app(words[1:], standalone_mode=False)
            said[words[1]] = out.getvalue()
    page = Path("report.html").read_text(encoding="utf-8")
    assert "×16 (batch 512" in page
    assert "Gradient noise scale" in page
    assert "of the AdamW batch-32 run" in page
    assert "lamb-512       LAMB" in said["advise"]
    assert "examples double at" in said["advise"]
