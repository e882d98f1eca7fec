"""Measures the optimizer step under several conditions, and writes what docs/performance.md shows of it.

    python benchmarks/optimizer_step.py [--only NAME ...]      on a machine that does nothing else: about 20 minutes

Each condition is one run of `anybatch bench`. Results go to benchmarks/results/optimizer-step.json; with --only, the
others in it stay as they are.
"""

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from anybatch.engine import progress_display
from anybatch.files import read_json, write_json, write_text
from anybatch.machine.bench import Conditions, measure
from anybatch.machine.measured import COLUMNS, conditions, findings, rows, title

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/optimizer-step.json"
PAGE = ROOT / "docs/performance.md"
START = "<!-- measured: from here to the end by benchmarks/optimizer_step.py -->\n"

RUNS = {
    "bert-large": Conditions(sets=("bert-large",), repeats=11),
    "bert-base": Conditions(sets=("bert-base",), repeats=11),
    "resnet-50": Conditions(sets=("resnet-50",), repeats=25, compiled=True),
    "many-small": Conditions(sets=("many-small",), repeats=11),
    "lars": Conditions(algorithm="lars", sets=("resnet-50",), repeats=25),
    "clipped": Conditions(sets=("bert-base",), repeats=11, clip=1.0),
    "one-thread": Conditions(sets=("resnet-50",), repeats=25, threads=1),
    "busy-core": Conditions(sets=("resnet-50",), repeats=25, busy=1),
}


def page(runs: dict[str, Any]) -> Iterator[str]:
    """The measured part of docs/performance.md: a section for each run that there is."""
    for name in RUNS:
        if name not in runs:
            continue
        for found in runs[name]["sets"]:
            yield f"### {title(found)}\n"
            yield f"{conditions(runs[name])}. {runs[name]['environment']['started'][:10]}\n"
            yield _markdown(rows(found), COLUMNS) + "\n"
            yield "\n".join(f"- {line}" for line in findings(found)) + "\n"


def _markdown(lines: Iterable[tuple[str, ...]], header: tuple[str, ...]) -> str:
    """A Markdown table, the first column to the left."""
    marks = ("---", *("---:" for _ in header[1:]))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, marks, *lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS))
    arguments = parser.parse_args()
    runs: dict[str, Any] = read_json(RESULTS) if RESULTS.exists() else {}
    with progress_display() as progress:
        for name in arguments.only:
            progress.say(f"== {name}")
            runs[name] = measure(RUNS[name], progress)
            write_json(RESULTS, runs)
    words = PAGE.read_text(encoding="utf-8").partition(START)[0]
    write_text(PAGE, words + START + "\n" + "\n".join(page(runs)).rstrip() + "\n")


if __name__ == "__main__":
    main()
