"""What lies behind the demo's gaps: single settings changed by hand, which the demo itself does not do.

    python benchmarks/demo_probes.py [--seeds 0 1 2]

LAMB at 16 times the reference batch with half of the steps spent on warm-up, and AdamW at 4 times the batch from a
reference one grid step below its best. Writes benchmarks/results/demo-probes.json.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

from anybatch.engine import Progress, progress_display
from anybatch.environment import describe_environment
from anybatch.files import write_json
from anybatch.recipes import change, find_recipe, train_recipe, with_batch_size
from anybatch.recipes.builtin_text import prepare_builtin_text
from anybatch.study.workers import run_side_by_side

PROBES = (
    ("bert-demo", 256, "optimizer.warmup_ratio=0.5"),
    ("bert-demo-adamw", 64, "reference.lr=0.0014"),
)
RESULTS = Path(__file__).parent / "results" / "demo-probes.json"


def scores(name: str, batch_size: int, setting: str, seed: int, out: Path, progress: Progress) -> dict[str, float]:
    """The final scores of one probe."""
    recipe = change(find_recipe(name), [setting, f"seed={seed}", f"data.path={out / 'data'}", "engine.num_evals=1"])
    title = f"{name}, batch {batch_size}, {setting}, seed {seed}"
    result = train_recipe(with_batch_size(recipe, batch_size), out / f"{name}-{seed}", progress=progress, title=title)
    return {**result["final"], "context_free_loss": result["context_free_loss"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    environment = {**describe_environment(), "threads": 1}
    trials = [(*probe, seed) for probe in PROBES for seed in arguments.seeds]
    with tempfile.TemporaryDirectory() as scratch, progress_display() as progress:
        out = Path(scratch)
        prepare_builtin_text(out / "data")
        found = run_side_by_side([partial(scores, *trial, out) for trial in trials], arguments.workers, progress)
    rows = [
        {"recipe": name, "batch_size": batch_size, "setting": setting, "seed": seed, **final}
        for (name, batch_size, setting, seed), final in zip(trials, found, strict=True)
    ]
    for row in rows:
        print(f"{row['recipe']}, batch {row['batch_size']}, {row['setting']}, seed {row['seed']}: {row['loss']:.4f}")
    write_json(RESULTS, {"environment": environment, "rows": rows})


if __name__ == "__main__":
    main()
