"""What the studies of the campaign share: models, data and lengths, all small enough for one core of a CPU.

The data are named by environment variables, so that a declaration holds on any machine: ANYBATCH_TEXT is a folder that
`anybatch data prepare --vocabulary-size 512` wrote of English prose.
"""

import json
import os
from pathlib import Path
from typing import Any

from anybatch.recipes import Recipe, change, find_recipe

RESULTS = Path(__file__).parent / "results"
TEXT = os.environ.get("ANYBATCH_TEXT", "shards")

GPT_BATCH = 4
GPT_BATCHES = (4, 16, 64, 256)
GPT_EXAMPLES = 64_000


def gpt(optimizer: str, lr: float, *changes: str, num_examples: int = GPT_EXAMPLES) -> Recipe:
    """GPT-2, 2 layers of 128, 512 WordPieces, windows of 64; tuned at batch 4, where 1/256 of the steps warm up."""
    return change(
        find_recipe("gpt2-tiny"),
        [
            f"data.path={TEXT}", f"optimizer.name={optimizer}", "phases.0.sequence_length=64", "phases.0.batch_size=4",
            f"reference.batch_size={GPT_BATCH}", f"reference.lr={lr}", f"reference.num_examples={num_examples}",
            f"reference.warmup_ratio={1 / 256}", "engine.micro_batch_size=32", "engine.num_trust_ratios=10",
            "engine.checkpoint_every_steps=2000", "engine.noise_every=0", *changes,
        ],
    )  # fmt: skip


def best_rate(study: str, optimizer: str) -> float:
    """The rate of `optimizer` that ended lowest in a committed table of rates, `results/STUDY.json`.

    Raises:
        ValueError: the best rate is the first or the last of those tried, so that it is not bracketed.
    """
    rows = json.loads((RESULTS / f"{study}.json").read_text(encoding="utf-8"))["rows"]
    mine = sorted((row["lr"], row["final"]) for row in rows if row["optimizer"] == optimizer)
    best = min(mine, key=lambda row: row[1])
    if best in (mine[0], mine[-1]):
        raise ValueError(f"{study}: the best rate of {optimizer}, {best[0]}, is at the edge of those tried: {mine}")
    return float(best[0])


def rate_name(optimizer: str, lr: float) -> str:
    """A contender's name in a table of rates."""
    return f"{optimizer} at {lr:g}"


def rates(make: Any, tried: dict[str, tuple[float, ...]]) -> tuple[Any, ...]:
    """One contender for each optimizer and rate."""
    from anybatch.study import Entrant

    return tuple(Entrant(rate_name(name, lr), make(name, lr)) for name, lrs in tried.items() for lr in lrs)
