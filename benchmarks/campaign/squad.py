"""Does untuned scaling carry over to fine-tuning a real BERT? From batch 8 to 512, at the rates of squad_rates.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from settings import SQUAD_BATCHES, best_rate, squad

from anybatch.study import Entrant, Study


def study() -> Study:
    return Study(
        name="squad",
        question="Tuned at batch 8, what do LAMB and AdamW keep of it at 32, 128 and 512?",
        entrants=(
            Entrant("LAMB", squad("lamb", best_rate("squad-rates", "lamb"))),
            Entrant("AdamW", squad("adamw", best_rate("squad-rates", "adamw"))),
        ),
        batch_sizes=SQUAD_BATCHES,
        seeds=(0, 1, 2),
        num_evals=2,
    )
