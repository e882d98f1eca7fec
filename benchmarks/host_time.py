"""What the engine and the optimizer take of a step on the host, apart from the forward and the backward pass.

    python benchmarks/host_time.py --before FOLDER [--turns 12] [--steps 20]

FOLDER is the `src` of another revision. A BERT of 24 layers, so of 398 parameters, that are so small that nearly all is
Python and launches; LAMB with clipping. Two processes, one a revision, take turns of so many steps; the median of the
turns' medians counts. Times are processor time. Writes benchmarks/results/host-time.json.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent / "results" / "host-time.json"
HERE = Path(__file__).parents[1] / "src"


class Apart:
    """Adds up the processor time of some calls."""

    def __init__(self) -> None:
        self.taken = 0.0

    def around(self, call: Any) -> Any:
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.thread_time()
            try:
                return call(*args, **kwargs)
            finally:
                self.taken += time.thread_time() - started

        return timed


def worker(steps: int) -> None:
    """For every line of standard input: takes steps, and prints the median milliseconds around the passes of one."""
    import torch

    from anybatch.engine import Execution, Ranks
    from anybatch.engine import parallel as ways
    from anybatch.engine.loading import MicroBatch, Share
    from anybatch.engine.step import train_step
    from anybatch.models.bert import BertSettings, pretraining_model
    from anybatch.optim import LAMB, param_groups

    torch.set_num_threads(1)
    model = pretraining_model(
        BertSettings(vocabulary_size=64, hidden_size=16, num_layers=24, num_heads=2, max_positions=16), seed=0
    ).train()
    optimizer = LAMB(param_groups(model), lr=1e-3)
    # Earlier revisions have a class of its own for whole copies.
    parallel = getattr(ways, "Replicated", ways.Parallel)(
        model, Ranks(), Execution(micro_batch_size=2, num_evals=1, num_trust_ratios=1, checkpoint_every_steps=1)
    )
    if hasattr(parallel, "squares"):
        from anybatch.optim.kernels.library import squares

        parallel.squares = squares
    ids = torch.arange(16).view(2, 8)
    inputs = {
        "input_ids": ids,
        "token_type_ids": torch.zeros_like(ids),
        "attention_mask": torch.ones_like(ids),
        "masked_positions": torch.arange(4),
        "masked_labels": torch.arange(4),
        "next_sentence_label": torch.zeros(2, dtype=torch.int64),
    }
    share = Share([MicroBatch(inputs, 1.0, 2)], {"mlm": 4, "nsp": 2}, 7)
    apart = Apart()
    model.forward = apart.around(model.forward)
    torch.Tensor.backward = apart.around(torch.Tensor.backward)  # type: ignore[method-assign]
    assert len(list(model.parameters())) == 398
    for _ in sys.stdin:
        taken = []
        for _ in range(steps):
            apart.taken, started = 0.0, time.thread_time()
            train_step(parallel, optimizer, share, 1.0)
            taken.append(time.thread_time() - started - apart.taken)
        print(1e3 * median(taken), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    if given.before is None:
        worker(given.steps)
        return
    sources = {"before": given.before, "now": HERE}
    command = [sys.executable, "-W", "ignore", __file__, "--steps", str(given.steps)]
    processes = {
        name: subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": str(path)}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for name, path in sources.items()
    }  # fmt: skip
    taken: dict[str, list[float]] = {name: [] for name in sources}
    for turn in range(given.turns + 1):
        for name, process in processes.items():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            found = float(process.stdout.readline())
            if turn:  # the first warms up
                taken[name].append(found)
    for process in processes.values():
        process.communicate()
    from anybatch.environment import describe_environment

    medians = {name: median(values) for name, values in taken.items()}
    ratios = sorted(now / before for before, now in zip(taken["before"], taken["now"], strict=True))
    result = {
        "parameters": 398,
        "milliseconds_a_step": medians,
        "now_of_before": median(ratios),
        "range": [ratios[0], ratios[-1]],
        "turns": given.turns,
        "steps_a_turn": given.steps,
        "environment": describe_environment(),
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: result[name] for name in ("milliseconds_a_step", "now_of_before", "range")}))


if __name__ == "__main__":
    main()
