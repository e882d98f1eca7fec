"""The rates of LAMB, LARS and momentum for the campaign's DavidNet, bracketed at batch 32."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from settings import IMAGE_BATCH, images, rate_study

from anybatch.study import Study

TRIED = {
    "lamb": (0.005, 0.01, 0.02),
    "lars": (0.008, 0.016, 0.032),
    "momentum": (0.08, 0.16, 0.32),
}


def study() -> Study:
    return rate_study("images-rates", images, TRIED, IMAGE_BATCH, metric="label", num_evals=3)
