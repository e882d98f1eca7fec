"""A run of several phases: where they begin in the curves, and what each was."""

import json
import re
from pathlib import Path
from typing import Any

from anybatch.comparison.families import compare
from anybatch.comparison.folders import load
from anybatch.report import write_report
from anybatch.report.running import phases, switches


def in_two_phases(folder: Path, last_step: int = 30) -> Path:
    """Twenty steps at batch 16 and 64 tokens, then ten at 8 and 256, warmed up again."""
    folder.mkdir()
    phases: list[dict[str, Any]] = [
        {"batch_size": 16, "sequence_length": 64, "share": 0.8, "carry_over": "keep"},
        {"batch_size": 8, "sequence_length": 256, "share": 0.2, "carry_over": "reset_step"},
    ]
    recipe = {"name": "two", "task": "pretraining", "seed": 0, "optimizer": {"name": "lamb"}, "phases": phases}
    (folder / "recipe.json").write_text(json.dumps({**recipe, "reference": {"batch_size": 8, "lr": 0.01}}))
    events = []
    for step in range(1, last_step + 1):
        late = step > 20
        within = step - 20 if late else step
        lr = 0.5 * within if within <= 2 else 1.0 - 0.02 * within
        examples = 320 + 8 * (step - 20) if late else 16 * step
        common = {"step": step, "examples": examples, "elapsed_s": float(step)}
        events.append({"event": "train", "phase": int(late), "loss": 9 - 0.1 * step, "lr": lr, **common})
        if step % 10 == 0:
            events.append({"event": "eval", "loss": 9 - 0.1 * step, "losses": {}, "accuracy": {"mlm": 0.1}, **common})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return folder


def test_each_phase_has_its_row(tmp_path: Path) -> None:
    (run,) = load([in_two_phases(tmp_path / "two")])
    told = phases(compare([run]))
    assert told is not None
    rows = re.findall(r"<tr>(.*?)</tr>", told.html(), re.DOTALL)
    cells = [[re.sub("<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)] for row in rows]
    assert cells[1] == ["two", "1", "16", "64 tokens", "20", "1", "1", "loss 7.00", "–"]
    assert cells[2] == ["two", "2", "8", "256 tokens", "10", "1", "1", "loss 6.00", "moments, not their step"]
    ((phase, before, after),) = switches(run)
    assert (phase, before.step, before.examples, after.step) == (1, 20, 320, 21)
    assert (before.lr, after.lr) == (0.6, 0.5)
    write_report([run.path], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "The phases of a run" in page
    assert page.count(">phase 2<") == 2 * 5, "in five panels, each drawn for two widths"


def test_a_run_of_one_phase_or_still_in_its_first_shows_no_switch(tmp_path: Path) -> None:
    (run,) = load([in_two_phases(tmp_path / "two", last_step=10)])
    assert switches(run) == []
    told = phases(compare([run]))
    assert told is not None
    assert told.html().count("<tr>") == 2, "the heading, and the phase that was begun"
    recipe = json.loads((run.path / "recipe.json").read_text())
    (run.path / "recipe.json").write_text(json.dumps({**recipe, "phases": recipe["phases"][:1]}))
    assert phases(compare(load([run.path]))) is None
