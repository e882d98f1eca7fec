"""Two more seeds of squad.py at batch 8 and 128."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from settings import squad_study

from anybatch.study import Study


def study() -> Study:
    return squad_study("squad-seeds", (8, 128), (1, 2))
