"""Writes docs/results.md, and the tables of README.md and docs/recipes.md, from the committed files of results.

    python docs/results.py

The page's text is docs/results.md.j2, a Jinja template. Every number in it is computed here from a file under
benchmarks/results or src/anybatch/study, so that a file and the page cannot disagree; a test renders the page and
compares it.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from anybatch.comparison.statistics import mean_interval

DOCS = Path(__file__).parent
ROOT = DOCS.parent
CAMPAIGN = ROOT / "benchmarks" / "campaign" / "results"
OPTIMIZERS = {
    "lamb": "LAMB", "lars": "LARS", "adamw": "AdamW", "adam": "Adam", "momentum": "momentum", "adagrad": "AdaGrad",
}  # fmt: skip
BLOCK = re.compile(r"(<!-- results: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def load(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def load_all(folder: Path) -> dict[str, Any]:
    """The content of every JSON file in a folder, by its name with underscores."""
    return {path.stem.replace("-", "_"): load(path) for path in sorted(folder.glob("*.json"))}


def pick(rows: Iterable[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    """The rows whose fields have the values asked for."""
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def values(rows: Iterable[dict[str, Any]], field: str, scale: float = 1.0) -> list[float]:
    """One field of all rows, times `scale`."""
    return [scale * row[field] for row in rows]


def spread(numbers: Sequence[float], digits: int = 1, unit: str = "") -> str:
    """The mean; if there are several values, the smallest and the largest in brackets."""
    text = f"{fmean(numbers):.{digits}f}{unit}"
    return text if len(numbers) == 1 else f"{text} ({min(numbers):.{digits}f} to {max(numbers):.{digits}f})"


def interval(numbers: Sequence[float], digits: int = 1) -> str:
    """The 95 % interval of the mean by Student's t."""
    found = mean_interval(numbers)
    return f"{found.low:.{digits}f} to {found.high:.{digits}f}"


def beside_reference(rows: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each row of a study with `factor`; and the row of the same optimizer and seed at the smallest batch."""
    found = []
    for row in rows:
        same = pick(rows, optimizer=row["optimizer"], seed=row["seed"])
        reference = min(same, key=lambda each: each["batch"])
        found.append(({**row, "factor": row["batch"] // reference["batch"]}, reference))
    return found


def with_kept(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with `factor`, `loss`, and `kept`, the share of the reference's gain."""
    found = []
    for row, reference in beside_reference(rows):
        gain, whole = (each["context_free_loss"] - each["final"]["loss"] for each in (row, reference))
        words_right = row["final"].get("lm_accuracy")
        found.append({**row, "loss": row["final"]["loss"], "words_right": words_right, "kept": gain / whole})
    return found


def with_points(rows: Sequence[dict[str, Any]], part: str, name: str, scale: float = 1.0) -> list[dict[str, Any]]:
    """The rows that did not diverge, with `factor`, `score`, and `points`, the score above the reference's.

    The score is `scale` times row[part][name]; the part is "final", or "squad" for the questions of dev.json.
    """
    found = []
    for row, reference in beside_reference(rows):
        if row[part]:
            score, start = (scale * each[part][name] for each in (row, reference))
            found.append({**row, "score": score, "points": score - start})
    return found


def rate_table(rows: Sequence[dict[str, Any]], loss: str, best: float, title: str) -> str:
    """A row of learning rates and a row of held-out losses; the best loss is bold."""
    rows = sorted(rows, key=lambda row: row["lr"])
    losses = [f"**{row[loss]:.3f}**" if row["lr"] == best else f"{row[loss]:.3f}" for row in rows]
    return (
        f"| {title}, learning rate | " + " | ".join(f"{row['lr']:g}" for row in rows) + " |\n"
        + "|---" * (len(rows) + 1) + "|\n"
        "| held-out loss | " + " | ".join(losses) + " |"
    )  # fmt: skip


def results() -> dict[str, Any]:
    """Everything that the template may name: the files, the optimizers' names, and the functions above."""
    return {
        **load_all(ROOT / "benchmarks" / "results"),
        "demo": load(ROOT / "src" / "anybatch" / "study" / "measured.json"),
        "campaign": load_all(CAMPAIGN),
        "OPTIMIZERS": OPTIMIZERS, "pick": pick, "values": values, "spread": spread, "interval": interval,
        "mean": fmean, "rate_table": rate_table, "with_kept": with_kept, "with_points": with_points,
    }  # fmt: skip


def render() -> dict[str, str]:
    """The text of each page that has numbers of results, by its path from the repository's root."""
    environment = Environment(
        loader=FileSystemLoader(DOCS), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    names = results()
    blocks = environment.get_template("results-blocks.md.j2").make_module(names)
    pages = {"docs/results.md": environment.get_template("results.md.j2").render(names)}
    for page in ("README.md", "docs/recipes.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        pages[page] = BLOCK.sub(lambda match: match[1] + str(getattr(blocks, match[2])()) + match[4], text)
    return pages


if __name__ == "__main__":
    for name, text in render().items():
        (ROOT / name).write_text(text, encoding="utf-8")
