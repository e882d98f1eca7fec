"""The look at all gradients before a step on a CPU: torch's norm in float64 against the compiled kernels, in turns.

    python benchmarks/gradient_norm.py --out FILE [--layers 24] [--repeats 7]

Parameters as BERT-large's: 398 at 24 layers. Medians in milliseconds; the load of the machine is recorded beside them.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from anybatch.engine.step import sum_of_squares
from anybatch.models.bert import BertSettings, pretraining_model
from anybatch.optim.kernels.library import squares


def milliseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    with torch.device("meta"):
        shapes = [
            p.shape
            for p in pretraining_model(
                BertSettings(
                    vocabulary_size=30_522, hidden_size=1_024, num_layers=given.layers, num_heads=16, max_positions=512
                ),
                0,
            ).parameters()
        ]
    gradients = [torch.randn(shape) for shape in shapes]
    calls = {
        "torch": lambda: sum_of_squares(gradients),
        "compiled kernels": lambda: sum_of_squares(gradients, squares),
    }
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(given.repeats):
        for name, call in calls.items():
            found[name].append(milliseconds(call))
    result = {
        "median_ms": {name: statistics.median(values) for name, values in found.items()},
        "range_ms": {name: [min(values), max(values)] for name, values in found.items()},
        "relative_difference": abs(float(calls["torch"]() / calls["compiled kernels"]()) - 1),
        "tensors": len(gradients),
        "elements": sum(map(torch.Tensor.numel, gradients)),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
