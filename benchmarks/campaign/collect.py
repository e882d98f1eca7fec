"""Writes what the finished runs of a study measured to a committed file: a row a run, with the command that repeats it.

    python benchmarks/campaign/collect.py RUNS... --out benchmarks/campaign/results/NAME.json [--squad dev.json]

RUNS are the folders `runs` that `anybatch study --out` made, or run folders. `--squad` scores each model on SQuAD's
questions. A run that diverged has no final scores; other runs that are not finished are left out. A row that the file
has already is replaced if its run is given, and stays if not. Data are named in the commands by the variables of
settings.py.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from settings import DATA

from anybatch.files import read_object, write_json
from anybatch.recipes import evaluate_run, find_recipe, from_json
from anybatch.recipes.change import as_options, differences
from anybatch.runs import Run


def row(run: Run, questions: Path | None) -> dict[str, Any]:
    """One run: what was set, what it cost, what it reached; `final` is None if it diverged."""
    recipe, result = from_json(run.recipe()), run.result() if run.finished else {}
    found: dict[str, Any] = {
        "run": run.path.name,
        "optimizer": recipe.optimizer.name,
        "rule": recipe.reference.rule,
        "reference_lr": recipe.reference.lr,
        "batch": recipe.phases[0].batch_size,
        "seed": recipe.seed,
        **{name: result.get(name) for name in ("lr", "warmup_steps", "num_steps", "num_examples", "context_free_loss")},
        "final": result.get("final"),
        "train_s": result.get("train_s"),
    }
    if questions is not None:
        found["squad"] = evaluate_run(run.path, questions)
    where = run.environment()
    machine = {name: where[name] for name in ("git_revision", "processor", "threads", "versions")}
    return {**found, "environment": machine, "command": command(recipe)}


def diverged(run: Run) -> bool:
    """Whether the study ended the run because it had diverged."""
    return run.status_file.is_file() and read_object(run.status_file)["message"].startswith("Diverged")


def command(recipe: Any) -> str:
    """The command that repeats the run, its data named by variables."""
    text = f"anybatch train {recipe.name}{as_options(differences(recipe, find_recipe(recipe.name)))}"
    for variable, path in DATA.items():
        for name in (str(Path(path).resolve()), path):
            text = text.replace(f"'data.path=\"{name}\"'", f'data.path="${variable}"')
            text = text.replace(f"'model.path=\"{name}\"'", f'model.path="${variable}"')
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--squad", type=Path)
    args = parser.parse_args()
    folders = [path.parent for runs in args.runs for path in sorted(runs.glob("**/recipe.json"))]
    found = [row(run, args.squad) for run in map(Run, folders) if run.finished or diverged(run)]
    before = json.loads(args.out.read_text(encoding="utf-8"))["rows"] if args.out.exists() else []
    rows = {each["command"]: each for each in [*before, *found]}
    order = sorted(rows.values(), key=lambda row: (row["optimizer"], row["batch"], row["reference_lr"], row["seed"]))
    write_json(args.out, {"rows": order})
    print(f"{args.out}: {len(order)} rows, {len(found)} of them from {len(folders)} folders")


if __name__ == "__main__":
    main()
