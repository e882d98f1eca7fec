"""The page: complete, self-contained, escaped, the same twice."""

import base64
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.browser import look, needs_chromium

from anybatch.comparison.wording import duration, gap, listed, loss, short
from anybatch.errors import InputError
from anybatch.report import write_report

Write = Callable[..., Path]
SECTIONS = ["batch", "curves", "accuracy", "questions", "rates", "noise", "trust", "runs", "made"]
HOSTILE = "<script>alert(1)</script>\"'&$x^$ 漢"


class Page(HTMLParser):
    """Checks that tags nest and collects what a test asks for."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def values(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]


def report(runs: Path, **options: object) -> str:
    out = runs.parent / "out" / "report.html"
    write_report([runs], out, **options)  # type: ignore[arg-type]
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(study: Path) -> str:
    return report(study, background={"seeds": {"sentences": ["Three seeds <gave> the same."]}})


def test_every_section_is_there_and_small(page: str) -> None:
    parsed = Page(page)
    assert [value for tag, name, value in parsed.attributes if tag == "section" and name == "id"] == SECTIONS
    assert len(page.encode()) < 1_500_000
    assert parsed.tags.count("h1") == 1
    assert "LAMB&#x27;s held-out loss stayed within 5\u202f% of its own batch-8 run up to ×8" in page
    assert "Three seeds &lt;gave&gt; the same." in page


def test_every_figure_is_drawn_for_both_widths_and_described(page: str) -> None:
    parsed = Page(page)
    assert parsed.tags.count("svg") == 2 * parsed.tags.count("figure") == 2 * parsed.tags.count("figcaption")
    assert parsed.tags.count("figure") == 8
    assert parsed.tags.count("desc") == parsed.tags.count("svg") == parsed.values("role").count("img")
    ids = parsed.values("id")
    assert len(ids) == len(set(ids))
    described = parsed.values("aria-labelledby")
    assert len(described) == parsed.tags.count("svg")
    assert all(name in ids for value in described for name in value.split())
    references = set(re.findall(r"url\(#([^)]+)\)", page)) | {v[1:] for v in parsed.values("href") if v.startswith("#")}
    assert references <= set(ids)


def test_nothing_is_loaded_from_elsewhere(page: str) -> None:
    parsed = Page(page)
    assert not {"link", "script", "iframe", "object", "embed", "base", "img"} & set(parsed.tags)
    assert "http://" not in page
    assert "https://" not in page
    assert "@import" not in page
    assert parsed.values("src") == []
    assert all(value.startswith(("#", "data:image/png;base64,")) for value in parsed.values("href"))
    assert all(found.startswith("#") for found in re.findall(r"url\(([^)]*)\)", page))


def test_colors_follow_the_page_and_text_stays_text(page: str) -> None:
    figures = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    figures = re.sub(r"base64,[^\"]*", "", figures)
    assert set(re.findall(r"#[0-9a-f]{6}\b", figures)) <= {"#ffffff"}
    assert "#0102" not in page
    assert "DejaVu" not in figures
    texts = "".join(Page(page).words)
    for word in ("held-out loss", "+4.0\u202f%", "×32", "feed-forward out", "13.7", "steps, logarithmic"):
        assert word in texts


def test_the_same_runs_give_the_same_page(write_run: Write, tmp_path: Path) -> None:
    for batch in (8, 64):
        write_run(tmp_path / "runs" / str(batch), "lamb", batch)
    assert report(tmp_path / "runs") == report(tmp_path / "runs")


def test_the_table_tells_every_run(page: str) -> None:
    rows = re.findall(r"<tr.*?</tr>", page, flags=re.DOTALL)
    head, *cells = [[re.sub("<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows]
    assert len(cells) == 8
    runs = {row[-1]: dict(zip(head, row, strict=True)) for row in cells}
    told = ["LAMB", "64", "×8", "375", "0.0283", "90", "4.44", "+4.0\u202f%"]
    assert list(runs["lamb-64"].values())[:8] == told
    assert "kept" not in head, "nothing is known of frequencies"
    assert runs["lamb-8"]["gap"] == "reference"
    assert list(runs["lamb-64"].values())[-6:] == ["12.8", "7.7", "36\u202fs", "664", "0", "lamb-64"]


def test_what_models_write_and_keep_stands_on_the_page(write_run: Write, tmp_path: Path) -> None:
    for batch in (8, 64):
        run = write_run(tmp_path / "runs" / f"b{batch}", "lamb", batch)
        result = json.loads((run / "result.json").read_text())
        (run / "result.json").write_text(json.dumps({**result, "context_free_loss": 6.0}))
        (run / "sample.json").write_text(json.dumps({"start": "the <b>", "text": f"cat & {batch}"}))
    page = report(tmp_path / "runs")
    assert "<dt>LAMB ×8</dt><dd><mark>the &lt;b&gt;</mark>cat &amp; 64</dd>" in page
    assert "Filled points keep at least 95 % of what the optimizer&#x27;s own reference learned" in page
    assert "<td>90.2\u202f%</td>" in page


def test_what_a_run_folder_says_is_never_markup(write_run: Write, write_questions: Write, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for batch in (8, 64):
        run = write_run(runs / f"<b>{batch}", "lamb", batch, recipe=HOSTILE)
        result = json.loads((run / "result.json").read_text())
        (run / "result.json").write_text(json.dumps(result | {"optimizer": HOSTILE}))
        events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for event in events:
            if event["event"] == "trust_ratios":
                event["ratios"] = {f"layer.0.{HOSTILE}": 1.0, HOSTILE: 2.0}
        (run / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
        environment = {"processor": HOSTILE, "git_revision": HOSTILE, "versions": {HOSTILE: HOSTILE}}
        (run / "environment.json").write_text(json.dumps({**environment, "command": [HOSTILE, "\ud800"]}))
    write_questions(runs / "q", "../<b>8", 1.0, 1.0)
    failed = write_run(runs / "failed", finished=False)
    (failed / "status.json").write_text(json.dumps({"outcome": HOSTILE, "message": HOSTILE}))
    source = report(runs, title=HOSTILE, background={"sentences": [HOSTILE]})
    parsed = Page(source)
    assert "script" not in parsed.tags
    assert "b" not in parsed.tags
    assert not any(name.startswith("on") for _, name, _ in parsed.attributes)
    assert "<script" not in source


def test_unfinished_and_diverged_runs_are_shown_as_such(write_run: Write, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_run(runs / "lamb-8", "lamb", 8)
    write_run(runs / "lamb-32", "lamb", 32, finished=False)
    write_run(runs / "lamb-64", "lamb", 64, loss=math.nan)
    broken = write_run(runs / "lamb-256", "lamb", 256)
    (broken / "metrics.jsonl").unlink()
    source = report(runs)
    assert 'title="SIGTERM"' in source
    assert "<td>stopped</td>" in source
    assert "<td>diverged</td>" in source
    assert "stroke-dasharray" in source
    assert "1 run has not finished and is left out of every number here: lamb-32 (stopped)." in source
    assert "nan" not in re.sub(r"base64,[^\"]*", "", source).lower().replace("pretraining", "").replace("finance", "")


@pytest.mark.parametrize("samples", [1, 400])
def test_heat_map_of_one_and_of_many_samples(write_run: Write, tmp_path: Path, samples: int) -> None:
    write_run(tmp_path / "runs" / "lamb-8", samples=samples)
    images = re.findall(r'href="data:image/png;base64,\s*([^"]+)"', report(tmp_path / "runs"))
    assert len(images) == 4
    assert all(base64.b64decode(image).startswith(b"\x89PNG") for image in images)


def test_heat_map_survives_ratios_that_have_no_logarithm(write_run: Write, tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "lamb-8")
    event = {"event": "trust_ratios", "step": 5, "ratios": {"a": 0.0, "b": math.nan, "c": -1, "d": math.inf}}
    (run / "metrics.jsonl").write_text(json.dumps(event) + "\n")
    assert 'id="trust"' in report(tmp_path / "runs")


def test_a_run_without_metrics_still_has_a_page(write_run: Write, tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "lamb-8", finished=False)
    (run / "metrics.jsonl").write_text("")
    parsed = Page(report(tmp_path / "runs"))
    assert "svg" not in parsed.tags


def test_fine_tuning_alone_still_has_a_page(write_questions: Write, tmp_path: Path) -> None:
    write_questions(tmp_path / "runs" / "q", None, 12.0, 5.0)
    assert "fine-tuning, AdamW" in report(tmp_path / "runs")


def test_a_loss_far_off_does_not_flatten_the_picture(write_run: Write, tmp_path: Path) -> None:
    for batch, value in ((8, 4.0), (64, 4.1), (256, 1e30)):
        write_run(tmp_path / "runs" / str(batch), "lamb", batch, loss=value)
    (picture,) = re.findall(r'<section id="batch">.*?</svg>', report(tmp_path / "runs"), flags=re.DOTALL)
    assert ">1e+30<" in picture
    ticks = [float(tick) for tick in re.findall(r">(\d\.\d+)</text>", picture)]
    assert max(ticks) < 5


def test_bad_input_leaves_nothing_behind(write_run: Write, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run found"):
        write_report([tmp_path], tmp_path / "out" / "report.html")
    run = write_run(tmp_path / "run")
    with pytest.raises(InputError, match="is a folder"):
        write_report([run], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_importing_the_report_is_light() -> None:
    code = "import sys, anybatch.report; print(sorted({'matplotlib', 'numpy', 'torch'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert answer.stderr == ""
    assert "matplotlib" not in answer.stdout


def test_wording() -> None:
    assert [gap(value) for value in (0.031, -0.0004, -0.012, 0.0501, 0.25, 12.0, None)] == [
        "+3.1\u202f%", "±0.0\u202f%", "−1.2\u202f%", "+5.01\u202f%", "+25\u202f%", "over +1,000\u202f%", "–",
    ]  # fmt: skip
    assert [duration(value) for value in (0.25, 48.2, 185, 7800)] == [
        "0.2\u202fs", "48\u202fs", "3\u202fmin 05\u202fs", "2\u202fh 10\u202fmin",
    ]  # fmt: skip
    assert [short(value) for value in (0, 24_000, 1_500_000, 0.5)] == ["0", "24k", "1.5M", "0.5"]
    assert [loss(value) for value in (4.27, 0.0123, 1e30, None)] == ["4.27", "0.0123", "1e+30", "–"]
    assert [listed(items) for items in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_it_without_errors_and_without_sideways_scrolling(
    page: str, tmp_path: Path, dark: bool
) -> None:
    seen = look(page, tmp_path, 400, dark)
    assert seen.console == []
    assert not seen.scrolls
    assert seen.figures == 8
    assert (seen.paper < 60) is dark
    assert (min(seen.heading, seen.figure_text) > 120) is dark
