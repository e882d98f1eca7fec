"""A study finds what was planted: the best rate, the best optimizer and both critical batches, within its intervals."""

import re
import zlib
from pathlib import Path
from typing import Any

import pytest
from support import planted
from support.browser import look, needs_chromium

from anybatch.comparison.grid import Comparison
from anybatch.progress import SilentProgress
from anybatch.recipes import change, find_recipe
from anybatch.report import write_study
from anybatch.study import Entrant, Study
from anybatch.study.command import finish_study, plan
from anybatch.study.declaration import LR

_COLOR = rb"([\d.]+) ([\d.]+) ([\d.]+) (?:rg|RG)\b"


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("planted")
    progress = SilentProgress()
    return *finish_study(planted.study, out, progress, storage=None, num_workers=1, heartbeat_s=20), out


@pytest.fixture(scope="module")
def found(ended: tuple[Comparison, dict[str, Any], Path]) -> tuple[dict[str, Any], Path]:
    return ended[1:]


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


def test_the_report_holds_everything(ended: tuple[Comparison, dict[str, Any], Path]) -> None:
    compared, table, out = ended
    names = {path.name for path in write_study(compared, out)}
    assert names == {
        "index.html", "quality.svg", "loss.svg", "steps.svg", "sensitivity.svg", "trust-0.svg",
        "quality.pdf", "loss.pdf", "steps.pdf",
        "sensitivity.pdf", "trust-0.pdf", "glance.csv", "results.csv", "differences.csv", "scaling.csv", "failures.csv",
        "trials.csv",
    }  # fmt: skip
    picture = (out / "quality.svg").read_text(encoding="utf-8")
    ticks = [float(tick) for tick in re.findall(r">(\d\.\d+)</text>", picture)]
    assert max(ticks) >= 0.4, "losses of 0.0002 to 0.46 are all shown"
    page = (out / "index.html").read_text(encoding="utf-8")
    assert all(sentence in page for sentence in table["findings"])
    assert page.count("<svg") == 14, "two of maps are folded away"
    assert re.search("Trust ratios of every layer over time: LAMB ×1, seed 0, .* and LAMB ×16, seed 0", page)
    assert "http" not in page.replace("http://www.w3.org", "")
    assert (out / "trials.csv").read_text(encoding="utf-8").count("\n") == 1 + len(table["trials"])


def test_a_pdf_has_the_colors_of_the_light_page(ended: tuple[Comparison, dict[str, Any], Path]) -> None:
    compared, _, out = ended
    write_study(compared, out)
    first = (out / "quality.pdf").read_bytes()
    drawn = b"".join(
        zlib.decompress(stream)
        for stream in re.findall(rb"FlateDecode.*?stream\r?\n(.*?)\r?\nendstream", first, re.DOTALL)
    )
    colors = {tuple(round(255 * float(part)) for part in found) for found in re.findall(_COLOR, drawn)}
    assert {(0x00, 0x65, 0xB0), (0xC2, 0x4A, 0x00), (0x1B, 0x1D, 0x21)} <= colors
    assert not any(color[:2] == (1, 2) for color in colors), "a placeholder was left"
    write_study(compared, out)
    assert (out / "quality.pdf").read_bytes() == first
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "var(--accent-0)" in page, "the page drawn after it has its variables again"


@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(400, False), (400, True), (1200, False), (1200, True)])
def test_a_browser_shows_the_page_at_two_widths_light_and_dark(
    ended: tuple[Comparison, dict[str, Any], Path], tmp_path: Path, width: int, dark: bool
) -> None:
    write_study(ended[0], ended[2])
    seen = look((ended[2] / "index.html").read_text(encoding="utf-8"), tmp_path, width, dark)
    assert seen.console == []
    assert not seen.scrolls
    assert seen.figures == 7
    assert (seen.paper < 60) is dark
    assert (min(seen.heading, seen.figure_text) > 120) is dark


def test_the_plan_counts_what_is_run(found: tuple[dict[str, Any], Path]) -> None:
    assert plan(planted.study())["trials"] == len(found[0]["trials"]) == 42


def test_where_every_trial_fails_the_page_says_why(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    recipe = change(find_recipe("mnist-lenet"), [f"data.path={images}"])
    entrant = Entrant("LAMB", recipe, {LR: (0.01, 0.02)})
    study = Study("empty", "?", (entrant,), (64,), "grid", num_evals=1)
    found, _ = finish_study(lambda: study, tmp_path, SilentProgress(), storage=None, num_workers=1, heartbeat_s=20)
    page = write_study(found, tmp_path)[0].read_text(encoding="utf-8")
    assert str(images) in page
    assert f"{len(study.trials)} of {len(study.trials)} trials diverged or failed" in page
