"""The rates of LAMB and AdamW for fine-tuning MiniLM at batch 8, from half the examples, on held-out articles."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from settings import SQUAD_BATCH, SQUAD_EXAMPLES, rates, squad

from anybatch.study import Study

TRIED = {"adamw": (1e-4, 2e-4, 4e-4), "lamb": (5e-4, 1e-3, 2e-3)}


def study() -> Study:
    return Study(
        name="squad-rates",
        question="At batch 8, which rate is best for LAMB, and which for AdamW?",
        entrants=rates(lambda name, lr: squad(name, lr, num_examples=SQUAD_EXAMPLES // 2), TRIED),
        batch_sizes=(SQUAD_BATCH,),
        seeds=(100,),
        num_evals=2,
    )
