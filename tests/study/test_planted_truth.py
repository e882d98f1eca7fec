"""A study finds what was planted: the best rate, the best optimizer and both critical batches, within its intervals."""

from pathlib import Path
from typing import Any

import pytest
from study import planted

from anybatch.engine.progress import SilentProgress
from anybatch.report.study import write_study
from anybatch.study.command import finish_study, plan


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("planted")
    progress = SilentProgress()
    return finish_study(planted.study, out, progress, storage=None, num_workers=1, heartbeat_s=20), out


def test_the_best_rate_is_found_everywhere(found: tuple[dict[str, Any], Path]) -> None:
    assert all(cell["settings"] == {"optimizer.lr": planted.BEST_RATE} for cell in found[0]["cells"])


def test_the_best_optimizer_is_found_at_every_batch(found: tuple[dict[str, Any], Path]) -> None:
    rows = found[0]["differences"]
    assert [row["batch_size"] for row in rows] == [16, 64, 256]
    assert all((row["first"], row["second"]) == ("LAMB", "AdamW") and row["difference"]["low"] > 0 for row in rows)
    assert "LAMB has the best mean loss at every batch" in found[0]["headline"]


def test_the_critical_batches_lie_within_their_intervals(found: tuple[dict[str, Any], Path]) -> None:
    for row in found[0]["scaling"]:
        fit, name = row["fit"], row["entrant"]
        assert fit["b_crit"]["low"] < planted.B_CRIT[name] < fit["b_crit"]["high"]
        # An interval that holds anything finds nothing.
        assert fit["b_crit"]["high"] < 2 * fit["b_crit"]["low"]
        assert abs(fit["e_min"]["mean"] / planted.E_MIN[name] - 1) < 0.05


def test_no_p_value_from_three_seeds_and_what_diverged_is_listed(found: tuple[dict[str, Any], Path]) -> None:
    assert all(row["p_value"] is None for row in found[0]["differences"])
    lost = [trial["key"] for trial in found[0]["trials"] if trial["state"] == "diverged"]
    assert len(lost) == 6
    assert all("tuning-003" in key for key in lost)


def test_the_report_holds_everything(found: tuple[dict[str, Any], Path]) -> None:
    table, out = found
    names = {path.name for path in write_study(table, out)}
    assert names == {
        "index.html", "quality.svg", "steps.svg", "sensitivity.svg", "results.csv", "differences.csv", "scaling.csv",
        "failures.csv", "trials.csv",
    }  # fmt: skip
    page = (out / "index.html").read_text(encoding="utf-8")
    assert all(sentence in page for sentence in table["findings"])
    assert page.count("<svg") == 6
    assert "http" not in page.replace("http://www.w3.org", "")
    assert (out / "trials.csv").read_text(encoding="utf-8").count("\n") == 1 + len(table["trials"])


def test_the_plan_counts_what_is_run(found: tuple[dict[str, Any], Path]) -> None:
    assert plan(planted.study())["trials"] == len(found[0]["trials"]) == 42
