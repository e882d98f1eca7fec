"""The rates of LAMB and AdamW for fine-tuning MiniLM at batch 8, from fewer examples, on four held-out articles."""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from settings import SQUAD_BATCH, rate_study, squad

from anybatch.study import Study

TRIED = {"adamw": (1e-4, 2e-4, 4e-4), "lamb": (5e-4, 1e-3, 2e-3)}


def study() -> Study:
    return rate_study("squad-rates", partial(squad, num_examples=2_048), TRIED, SQUAD_BATCH, num_evals=1)
