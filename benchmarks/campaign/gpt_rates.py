"""The rates of LAMB and AdamW for the campaign's GPT, bracketed at its reference batch."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from settings import GPT_BATCH, gpt, rates

from anybatch.study import Study

TRIED = {"lamb": (0.0025, 0.005, 0.01), "adamw": (0.0005, 0.001, 0.002, 0.004)}


def study() -> Study:
    return Study(
        name="gpt-rates",
        question="At batch 4, which rate is best for LAMB, and which for AdamW?",
        entrants=rates(gpt, TRIED),
        batch_sizes=(GPT_BATCH,),
        seeds=(100,),
        num_evals=8,
    )
