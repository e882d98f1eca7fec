"""The numbers of two pages, as they were before both were made of one comparison; words and places may change.

Three seeds of two optimizers at four batches, and a study of planted curves: `golden.json` holds every number of the
table of runs, the numbers that the findings rest on, and the study's tables. It is written anew by hand only: each
number that changes there needs a reason in the commit.
"""

import csv
import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import planted

from anybatch.progress import SilentProgress
from anybatch.report import write_report, write_study
from anybatch.study.command import finish_study

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))
LOSSES = {"lamb": {8: 4.0, 32: 4.07, 64: 4.16, 256: 4.9}, "adamw": {8: 4.02, 32: 4.15, 64: 4.6, 256: 5.5}}
TABLES = ("results", "differences", "scaling", "trials")


def numbers(text: str) -> list[str]:
    """Every number of a text, its sign before it."""
    found = re.findall(r"[+−±×-]?\d[\d,]*\.?\d*(?:e[+-]?\d+)?", html.unescape(text))
    return [number.rstrip(".,") for number in found]


def value_of(cell: str) -> Any:
    """A cell of a table, rounding apart where it is a number."""
    try:
        return pytest.approx(float(cell), rel=1e-9)
    except ValueError:
        return cell


def write_seeds(write_run: Callable[..., Path], folder: Path) -> None:
    """A folder of runs as three demos leave it; one of them diverged."""
    for seed in range(3):
        for optimizer, losses in LOSSES.items():
            for batch, loss in losses.items():
                run = write_run(
                    folder / f"{optimizer}-{batch}-{seed}", optimizer, batch, seed=seed,
                    loss=float("nan") if (optimizer, batch, seed) == ("adamw", 256, 2) else loss + 0.03 * seed,
                    context_free_loss=6.0,
                )  # fmt: skip
                result = json.loads((run / "result.json").read_text(encoding="utf-8"))
                assert result["seed"] == seed


@pytest.fixture(scope="module")
def of_runs(write_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("golden")
    write_seeds(write_run, folder / "runs")
    write_report([folder / "runs"], folder / "report.html")
    page = (folder / "report.html").read_text(encoding="utf-8")
    (table,) = re.findall(r'<section id="runs">.*?</section>', page, flags=re.DOTALL)
    rows = {}
    for row in re.findall(r"<tr.*?</tr>", table, flags=re.DOTALL)[1:]:
        cells = [re.sub("<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
        rows[cells[-1]] = [found for cell in cells[:-1] for found in numbers(cell)]
    lines = re.findall(r"<li>(.*?)</li>", page)
    return {"rows": rows, "findings": sorted({number for line in lines for number in numbers(line)})}


@pytest.fixture(scope="module")
def of_study(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("golden-study")
    compared, _ = finish_study(planted.study, out, SilentProgress(), storage=None, num_workers=1, heartbeat_s=20)
    write_study(compared, out)
    tables = {}
    for name in TABLES:
        with open(out / f"{name}.csv", encoding="utf-8") as file:
            tables[name] = list(csv.DictReader(file))
    told = json.loads((out / "study.json").read_text(encoding="utf-8"))
    lines = [told["headline"], *told["findings"]]
    return {"tables": tables, "findings": sorted({number for line in lines for number in numbers(line)})}


def test_every_number_of_a_run_is_still_in_its_row(of_runs: dict[str, Any]) -> None:
    assert of_runs["rows"].keys() == GOLDEN["runs"]["rows"].keys()
    for name, row in GOLDEN["runs"]["rows"].items():
        left = list(of_runs["rows"][name])
        for number in row:
            assert number in left, f"{name}: {number} is gone"
            left.remove(number)


def test_what_the_findings_rest_on_is_still_said(of_runs: dict[str, Any], of_study: dict[str, Any]) -> None:
    assert not set(GOLDEN["runs"]["findings"]) - set(of_runs["findings"])
    assert not set(GOLDEN["study"]["findings"]) - set(of_study["findings"])


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_of_a_study_hold_what_they_held(of_study: dict[str, Any], name: str) -> None:
    expected, found = GOLDEN["study"]["tables"][name], of_study["tables"][name]
    assert len(found) == len(expected)
    for before, now in zip(
        *(sorted(rows, key=lambda row: [*row.values()][:2]) for rows in (expected, found)), strict=True
    ):
        for column, value in before.items():
            assert value_of(now[column]) == value_of(value), f"{now}: {column}"
