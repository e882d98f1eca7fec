"""The rates of LAMB and AdamW for the campaign's GPT, bracketed at its reference batch."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from settings import GPT_BATCH, gpt, rate_study

from anybatch.study import Study

TRIED = {"lamb": (0.0025, 0.005, 0.01), "adamw": (0.0005, 0.001, 0.002)}


def study() -> Study:
    return rate_study("gpt-rates", gpt, TRIED, GPT_BATCH, num_evals=8)
