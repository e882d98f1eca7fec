"""Does untuned scaling carry over to fine-tuning a real BERT? From batch 8 to 512, at the rates of squad_rates.py.

One article is held out, which costs less than four; SQuAD's dev.json scores the models (collect.py --squad).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from settings import SQUAD_BATCHES, squad_study

from anybatch.study import Study


def study() -> Study:
    return squad_study("squad", SQUAD_BATCHES, (0,))
