"""What lets a small BERT learn more than the frequencies of words within minutes? One change at a time, at batch 8."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from settings import BERT_BATCH, DATA, bert

from anybatch.study import Entrant, Study

SMALL = "512 WordPieces"


def study() -> Study:
    tries = {
        "4,096 WordPieces": (f"data.path={DATA['ANYBATCH_TEXT_4096']}",),
        SMALL: (),
        f"{SMALL}, Pre-LN": ("model.pre_norm=true",),
        f"{SMALL}, Pre-LN, 30 % masked": ("model.pre_norm=true", "data.masking_rate=0.3"),
    }
    return Study(
        name="bert-tries",
        question="What lets a small BERT learn more than the frequencies of words within minutes?",
        entrants=tuple(Entrant(label, bert("adamw", 1e-3, *changes)) for label, changes in tries.items()),
        batch_sizes=(BERT_BATCH,),
        seeds=(100,),
        num_evals=10,
    )
