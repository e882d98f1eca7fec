"""Repeats the demo with several seeds: what the page claims is what these runs gave.

    python benchmarks/demo_seeds.py [--out DIR] [--seeds 0 1 2]
    python benchmarks/demo_seeds.py --tables

Writes src/anybatch/study/measured.json (quoted by every demo's page), a row a run, with the hardware and the versions.
`--tables` prints what README.md and docs/results.md show of it, and runs nothing.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import anybatch.study
from anybatch.engine import progress_display
from anybatch.files import write_json
from anybatch.report import write_report
from anybatch.runs import Run
from anybatch.study.demo import cells, declared, rows, run_demo

RESULTS = Path(anybatch.study.__file__).with_name("measured.json")


def tables(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows of README.md's table, then those of docs/results.md's, from rows of runs."""
    by_cell: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in found:
        by_cell.setdefault((row["optimizer"], row["factor"]), []).append(row)
    names = {"lamb": "LAMB", "adamw": "AdamW, the same rule, its own tuned reference"}
    short = [
        f"| {title} | " + " | ".join(
            _spread([100 * row["kept"] for row in cell], 1, "\u202f%")
            for (name, factor), cell in by_cell.items() if name == optimizer and factor > 1
        ) + " |"
        for optimizer, title in names.items()
    ]  # fmt: skip
    long = [
        f"| {names[name].partition(',')[0]} | {cell[0]['batch']} (\u00d7{factor}) | {cell[0]['num_steps']:,} | "
        f"{_spread([row['loss'] for row in cell], 3)} | "
        f"{_spread([100 * row['kept'] for row in cell], 1) if factor > 1 else 'reference'} | "
        f"{_spread([100 * row['accuracy'] for row in cell], 1)} |"
        for optimizer in names for (name, factor), cell in by_cell.items() if name == optimizer
    ]  # fmt: skip
    return [*short, *long]


def _spread(values: Sequence[float], digits: int, unit: str = "") -> str:
    """The mean, and where there are several the smallest and the largest."""
    text = f"{mean(values):.{digits}f}{unit}"
    return text if len(values) == 1 else f"{text} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, help="keep the runs here, and go on with them; default: a folder that is removed"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tables", action="store_true", help="print the tables of the measured file; run nothing")
    arguments = parser.parse_args()
    if arguments.tables:
        print(*tables(json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]), sep="\n")
        return
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch, progress_display() as progress:
        for seed in arguments.seeds:
            out = (arguments.out or Path(scratch)) / f"seed-{seed}"
            folders = run_demo(out, seed, progress)
            write_report(folders, out / "report.html")
            found += rows(cells(out, seed))
        environment = Run(folders[0]).environment()
    for name, factor in dict.fromkeys((row["optimizer"], row["factor"]) for row in found):
        cell = [row for row in found if (row["optimizer"], row["factor"]) == (name, factor)]
        kept = [round(100 * row["kept"], 1) for row in cell]
        loss = mean(row["loss"] for row in cell)
        print(f"{name:6} \u00d7{factor:<3} batch {cell[0]['batch']:4}: loss {loss:.4f}, kept {kept} %")
    write_json(
        RESULTS,
        {
            "environment": {**environment, "command": ["demo_seeds.py"]},
            "recipes": [entrant.recipe.name for entrant in declared().entrants],
            "seeds": arguments.seeds,
            "rows": found,
        },
    )


if __name__ == "__main__":
    main()
