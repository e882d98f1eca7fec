"""`anybatch study theory`: measures, and records the environment."""

from pathlib import Path
from typing import Any

import torch

from anybatch.engine import Progress
from anybatch.environment import describe_environment
from anybatch.files import write_json
from anybatch.study.theory.experiments import FULL, Size, measure_theory
from anybatch.study.theory.findings import sentences


def run_theory(out: Path, seed: int, progress: Progress, size: Size = FULL) -> dict[str, Any]:
    """Measures the theorems and writes theory.json into `out`: {"kind", "environment", "measured", "findings"}.

    It uses one thread: the tensors are small, and the sums are the same on any machine with the same torch.
    """
    torch.set_num_threads(1)
    measured = measure_theory(size, seed, progress)
    found = {
        "kind": "theory",
        "environment": describe_environment(),
        "measured": measured,
        "findings": sentences(measured),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "theory.json", found)
    return found
