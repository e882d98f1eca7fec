"""Repeats the demo with several seeds: what the page claims is what these runs gave.

    python benchmarks/demo_seeds.py [--out DIR] [--seeds 0 1 2]

Writes src/anybatch/study/measured.json (quoted by every demo's page) with the hardware and the versions.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import anybatch.study
from anybatch.engine import progress_display
from anybatch.files import write_json
from anybatch.report import write_report
from anybatch.runs import Run
from anybatch.study.demo import RECIPES, cells, run_demo

RESULTS = Path(anybatch.study.__file__).with_name("measured.json")


def cell_rows(out: Path, seed: int) -> list[dict[str, Any]]:
    """The scores of one finished demo, a row a cell, with the gap to the same optimizer's reference."""
    rows = []
    for cell in cells(out, seed):
        result, answers = Run(cell.pretraining).result(), Run(cell.questions).result()
        rows.append(
            {
                "optimizer": result["optimizer"],
                "factor": cell.factor,
                "batch_size": result["global_batch_size"],
                "loss": result["final"]["loss"],
                "f1": answers["final"]["f1"],
                "exact_match": answers["final"]["exact_match"],
                "wall_s": result["wall_s"] + answers["wall_s"],
            }
        )
    for row in rows:
        base = next(r["loss"] for r in rows if r["optimizer"] == row["optimizer"] and r["factor"] == 1)
        row["gap_percent"] = 100 * (row["loss"] / base - 1)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="keep the runs here; default: a folder that is removed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    by_seed: dict[int, list[dict[str, Any]]] = {}
    environments: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch, progress_display() as progress:
        for seed in arguments.seeds:
            out = (arguments.out or Path(scratch)) / f"seed-{seed}"
            write_report(run_demo(out, seed, progress), out / "report.html")
            by_seed[seed] = cell_rows(out, seed)
            environments.append(Run(cells(out, seed)[0].pretraining).environment())
    table = []
    for rows in zip(*by_seed.values(), strict=True):
        row = {name: rows[0][name] for name in ("optimizer", "factor", "batch_size")}
        for name in ("loss", "gap_percent", "f1", "exact_match", "wall_s"):
            row[name] = {"mean": mean(r[name] for r in rows), "each": [r[name] for r in rows]}
        table.append(row)
        gap = row["gap_percent"]
        print(
            f"{row['optimizer']:6} x{row['factor']:<3} batch {row['batch_size']:5}: "
            f"gap {gap['mean']:+.2f} % {[round(each, 2) for each in gap['each']]}"
        )
    write_json(
        RESULTS,
        {
            "environment": {**environments[0], "command": ["demo_seeds.py"]},
            "recipes": RECIPES,
            "seeds": arguments.seeds,
            "cells": table,
        },
    )


if __name__ == "__main__":
    main()
