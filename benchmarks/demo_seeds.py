"""Repeats the demo with several seeds: what the page claims is what these runs gave.

    python benchmarks/demo_seeds.py [--out DIR] [--seeds 0 1 2]

Writes src/anybatch/study/measured.json (quoted by every demo's page), a row a run, with the hardware and the versions.
`python docs/results.py` then brings README.md and docs/results.md up to date.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import anybatch.study
from anybatch.comparison.wording import kept, spread
from anybatch.engine import progress_display
from anybatch.files import write_json
from anybatch.names import optimizer_title
from anybatch.report import write_report
from anybatch.runs import Run
from anybatch.study.demo import declared, rows, run_demo

RESULTS = Path(anybatch.study.__file__).with_name("measured.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, help="keep the runs here, and go on with them; default: a folder that is removed"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch, progress_display() as progress:
        for seed in arguments.seeds:
            out = (arguments.out or Path(scratch)) / f"seed-{seed}"
            folders = run_demo(out, seed, progress)
            write_report(folders, out / "report.html")
            found += rows(folders)
        environment = Run(folders[0]).environment()
    for name, factor in dict.fromkeys((row["optimizer"], row["factor"]) for row in found):
        cell = [row for row in found if (row["optimizer"], row["factor"]) == (name, factor)]
        shares = [round(100 * row["kept"], 1) for row in cell]
        loss = mean(row["loss"] for row in cell)
        print(f"{name:6} \u00d7{factor:<3} batch {cell[0]['batch']:4}: loss {loss:.4f}, kept {shares} %")
    measured = {
        "environment": {**environment, "command": ["demo_seeds.py"]},
        "recipes": [entrant.recipe.name for entrant in declared().entrants],
        "seeds": arguments.seeds,
        "rows": found,
    }
    write_json(RESULTS, {**measured, "sentences": sentences(measured)})


def sentences(measured: dict[str, Any]) -> list[str]:
    """What a demo's page quotes."""
    seeds, about = measured["seeds"], measured["environment"]
    named = f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"
    shares: dict[str, dict[int, list[float]]] = {}
    for row in measured["rows"]:
        if row["factor"] > 1:
            shares.setdefault(optimizer_title(row["optimizer"]), {}).setdefault(row["factor"], []).append(row["kept"])
    said = [f"The same demo with {named} on {about['processor']}, {about['started'][:10]}:"]
    for name, by_factor in shares.items():
        each = [f"{kept(mean(values))}{spread(values, kept)} at \u00d7{factor}" for factor, values in by_factor.items()]
        said.append(f"{name} kept {', '.join(each)} of what its own reference learned.")
    return said


if __name__ == "__main__":
    main()
