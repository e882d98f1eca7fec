"""Does untuned scaling carry over to a GPT on English prose? From batch 4 to 256, at the rates of gpt_rates.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from settings import GPT_BATCHES, best_rate, gpt

from anybatch.study import Entrant, Study


def study() -> Study:
    lamb, adamw = best_rate("gpt-rates", "lamb"), best_rate("gpt-rates", "adamw")
    return Study(
        name="gpt",
        question="Tuned at batch 4, what do LAMB and AdamW keep of it at 16, 64 and 256?",
        entrants=(
            Entrant("LAMB", gpt("lamb", lamb)),
            Entrant("AdamW", gpt("adamw", adamw)),
        ),
        batch_sizes=GPT_BATCHES,
        seeds=(0, 1, 2),
        num_evals=8,
    )
