"""Does untuned scaling carry over to images? From batch 32 to 2,048, at the rates of images_rates.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from settings import IMAGE_BATCHES, best_rate, images

from anybatch.study import Entrant, Study


def study() -> Study:
    return Study(
        name="images",
        question="Tuned at batch 32, what do LAMB, LARS and momentum keep of it at 512 and 2,048?",
        entrants=tuple(
            Entrant(label, images(name, best_rate("images-rates", name, "top1")))
            for name, label in (("lamb", "LAMB"), ("lars", "LARS"), ("momentum", "momentum"))
        ),
        batch_sizes=IMAGE_BATCHES,
        seeds=(0, 1, 2),
        metric="label",
        num_evals=3,
    )
