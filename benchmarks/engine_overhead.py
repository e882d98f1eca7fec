"""What the engine costs around forward, backward and optimizer, for a step of about 200 ms.

    python benchmarks/engine_overhead.py [--steps 150] [--set FIELD=VALUE ...]

Trains a small BERT on the built-in text with everything on: masking in a thread, metrics, TensorBoard, trust ratios six
times, a
checkpoint every 50 steps. Prints a JSON object: seconds a step in each part, their shares of the wall time, the share
that is left over, and the wait for data. On one thread (OMP_NUM_THREADS=1) the share of the main thread's CPU time says
the same on a busy machine, but for the waiting. What is measured begins with the first step and ends after the last
one's checkpoint, less the evaluation between these two.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from anybatch.engine import checkpoint, loop, step
from anybatch.engine.environment import describe_environment
from anybatch.recipes import change, find_recipe, train_recipe
from anybatch.runs import Run

SETTINGS = {
    "model.hidden_size": 128,
    "model.num_heads": 2,
    "phases.0.batch_size": 32,
    "engine.micro_batch_size": 16,
    "engine.num_evals": 1,
    "engine.num_trust_ratios": 6,
    "engine.checkpoint_every_steps": 50,
    "data.num_held_out": 32,
}


class Stopwatch:
    """Seconds spent in functions that are replaced by timed ones: on the clock, and of the main thread's CPU time."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.cpu_seconds: Counter[str] = Counter()
        self.started = self.cpu_started = 0.0

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed_call(*arguments: Any, **named: Any) -> Any:
            started, cpu_started = time.perf_counter(), time.thread_time()
            try:
                return call(*arguments, **named)
            finally:
                self.seconds[name] += time.perf_counter() - started  # type: ignore[assignment]
                self.cpu_seconds[name] += time.thread_time() - cpu_started  # type: ignore[assignment]

        return timed_call


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("-o", "--out", type=Path, help="write the JSON object here, too")
    asked = parser.parse_args()
    watch = Stopwatch()
    # The parts that compute, and those of the rest that have a name.
    torch.Tensor.backward = watch.timed("backward", torch.Tensor.backward)  # type: ignore[method-assign]
    train_step = step.train_step

    def instrumented(parallel: Any, optimizer: Any, *rest: Any, **named: Any) -> Any:
        if not hasattr(parallel, "instrumented"):
            parallel.instrumented = True
            parallel.module.forward = watch.timed("forward", parallel.module.forward)
            optimizer.step = watch.timed("optimizer", optimizer.step)
            # What came before, an evaluation among it, does not count.
            for counter in (watch.seconds, watch.cpu_seconds):
                counter.clear()
            watch.started, watch.cpu_started = time.perf_counter(), time.thread_time()
        return watch.timed("whole steps", train_step)(parallel, optimizer, *rest, **named)

    loop.train_step = instrumented  # type: ignore[assignment]
    checkpoint.write = watch.timed("checkpoints", checkpoint.write)
    loop.evaluate_together = watch.timed("evaluations", loop.evaluate_together)
    finish = loop.finish

    def finished(*arguments: Any) -> Any:
        watch.seconds["all"] = time.perf_counter() - watch.started - watch.seconds["evaluations"]  # type: ignore[assignment]
        watch.cpu_seconds["all"] = time.thread_time() - watch.cpu_started - watch.cpu_seconds["evaluations"]  # type: ignore[assignment]
        return finish(*arguments)

    loop.finish = finished
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"{name}={json.dumps(value)}" for name, value in SETTINGS.items()]
        examples = SETTINGS["phases.0.batch_size"] * asked.steps  # type: ignore[operator]
        recipe = change(find_recipe("bert-tiny"), [*settings, f"reference.num_examples={examples}", *asked.set])
        run = Run(Path(folder) / "run")
        train_recipe(recipe, run.path)
        events = run.metrics("train")
    wall_s = watch.seconds["all"]
    parts = ("forward", "backward", "optimizer")
    computing = sum(watch.seconds[name] for name in parts)
    cpu_computing = sum(watch.cpu_seconds[name] for name in parts)
    steps = len(events)
    found = {
        "steps": steps,
        "ms a step": {name: round(1e3 * seconds / steps, 2) for name, seconds in watch.seconds.items()},
        "computing, share": round(computing / wall_s, 4),
        "everything around it, share": round(1 - computing / wall_s, 4),
        "everything around it, share of the main thread's CPU time": round(
            1 - cpu_computing / watch.cpu_seconds["all"], 4
        ),
        "checkpoints, share": round(watch.seconds["checkpoints"] / wall_s, 4),
        "waiting for data, share": round(sum(event["data_wait_s"] for event in events) / wall_s, 5),
        "environment": describe_environment(),
    }
    text = json.dumps(found, indent=1)
    print(text)
    if asked.out is not None:
        asked.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
