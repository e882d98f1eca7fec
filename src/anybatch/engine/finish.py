"""The end of a run: exports and scores the whole model, and writes the result."""

import shutil
import time
from typing import Any

from torch import nn

from anybatch.engine.job import Job
from anybatch.engine.parallel import Parallel
from anybatch.engine.pieces import give_ordinary_permissions, safetensors_errors
from anybatch.errors import Failed
from anybatch.files import new_folder, write_json
from anybatch.numbers import null_for_nonfinite
from anybatch.runs import Run


def finish(job: Job, run: Run, parallel: Parallel) -> dict[str, Any]:
    """Writes RUN/model and RUN/result.json on rank 0, and returns the result; the other ranks wait and return {}."""
    ranks = parallel.ranks
    with ranks.watch.unhurried():
        model = parallel.whole()
        result = _score(job, run, model) if model is not None else {}
        ranks.barrier("scoring the model")
    return result


def _score(job: Job, run: Run, model: nn.Module) -> dict[str, Any]:
    steps = run.metrics("train")
    if steps and all(event.get("skipped") for event in steps):
        raise Failed(
            f"none of the {len(steps)} steps was taken: no loss and gradient was finite, and the model is as it was; "
            "a lower optimizer.lr, or a longer warm-up, in a new run is the usual remedy"
        )
    if run.model.exists():
        shutil.rmtree(run.model)
    with safetensors_errors(run.model), new_folder(run.model) as scratch:
        job.export(model, scratch)
        for file in scratch.iterdir():
            give_ordinary_permissions(file)
    train_s = sum(event.get("step_s", 0.0) for event in steps)
    started = time.perf_counter()
    final = job.score(model)
    earlier_s = max((event.get("elapsed_s", 0.0) for event in steps), default=0.0)
    result = {
        **job.summary,
        "num_steps": job.num_steps,
        "num_examples": job.num_examples,
        "wall_s": earlier_s + time.perf_counter() - started,
        "train_s": train_s,
        "examples_per_s": job.num_examples / train_s if train_s else None,
        "skipped_steps": sum(event.get("skipped", 0) for event in steps),
        "final": final,
        "model_files": run.sums(),
    }
    write_json(run.result_file, null_for_nonfinite(result))
    return result
