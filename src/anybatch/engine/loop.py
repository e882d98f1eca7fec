"""The training loop: phases of steps, with evaluations, records, checkpoints, and a clean stop when asked."""

import math
import time
from typing import Any

import torch

from anybatch.engine import checkpoint
from anybatch.engine.evaluate import evaluate
from anybatch.engine.interruption import StopRequest, stop_requests
from anybatch.engine.job import Job, Phase
from anybatch.engine.progress import Progress, SilentProgress, Task
from anybatch.engine.records import Records, null_for_nonfinite
from anybatch.engine.step import StepResult, read_batch, train_step
from anybatch.errors import Stopped
from anybatch.files import write_json
from anybatch.runs import Run


def train(job: Job, run: Run, progress: Progress | None = None, title: str = "training") -> dict[str, Any]:
    """Runs `job` to its end in the folder `run`, from its newest checkpoint where there is one.

    Returns:
        The content of result.json: `job.summary`, times, and the scores of the finished model.

    Raises:
        Stopped: a signal asked for it; the state is saved.
        InputError: all of the run's checkpoints are damaged.
    """
    progress = progress or SilentProgress()
    step, problems = checkpoint.load_newest(run.checkpoints, job.model, job.optimizer, job.inputs)
    for line in problems:
        progress.say(line)
    run.set_status("running", step)
    try:
        # Asked to stop once the last step is taken, a run does what is left: less than resuming would cost.
        with stop_requests() as request:
            with Records(run, step) as records:
                task = progress.task(title, job.num_examples, _position(job, step)[2])
                try:
                    _run_steps(job, run, step, records, request, task)
                finally:
                    task.end()
            result = _finish(job, run)
    except Stopped as stop:
        run.set_status("stopped", _last_step(run), str(stop))
        raise
    except BaseException as error:
        run.set_status("failed", _last_step(run), f"{type(error).__name__}: {error}")
        raise
    run.set_status("finished", job.num_steps)
    return result


def _run_steps(job: Job, run: Run, step: int, records: Records, request: StopRequest, task: Task) -> None:
    eval_steps = _evenly(job.num_steps, job.execution.num_evals)
    trust_ratio_steps = _evenly(job.num_steps, job.execution.num_trust_ratios)
    trust_ratios = getattr(job.optimizer, "trust_ratios", None)
    earlier_s = max((event.get("elapsed_s", 0.0) for event in run.metrics()), default=0.0)
    started = time.perf_counter()

    def record(event: str, examples: int, values: dict[str, Any]) -> None:
        elapsed_s = earlier_s + time.perf_counter() - started
        records.write(event, step, {"examples": examples, **values, "elapsed_s": elapsed_s})

    if step == 0:
        record("eval", 0, evaluate(job.model, job.held_out).to_json())
    job.model.train()
    while step < job.num_steps:
        phase, index, start = _position(job, step)
        step_started = time.perf_counter()
        lr = phase.lr * phase.schedule(index)
        result = _take_step(job, phase, step, start, lr)
        step += 1
        examples = start + phase.global_batch_size
        step_s = time.perf_counter() - step_started
        record("train", examples, _train_event(result, lr, step_s, phase.global_batch_size))
        task.advance(examples, f"loss {sum(result.losses.values()):.3f}")
        if trust_ratios is not None and step in trust_ratio_steps:
            ratios = {name: layer.ratio for name, layer in trust_ratios().items()}
            record("trust_ratios", examples, {"ratios": ratios})
        if step in eval_steps:
            record("eval", examples, evaluate(job.model, job.held_out).to_json())
        done = step == job.num_steps
        if done or request.reason or step % job.execution.checkpoint_every_steps == 0:
            records.flush()
            checkpoint.save(run.checkpoints, step, job.model, job.optimizer, job.inputs)
        if request.reason and not done:
            raise Stopped(f"{request.reason} at step {step} of {job.num_steps}; saved, --resume goes on from there")


def _take_step(job: Job, phase: Phase, step: int, start: int, lr: float) -> StepResult:
    for group in job.optimizer.param_groups:
        group["lr"] = lr
    # Dropout draws from torch's generator: keyed by seed and step, it needs no place in a checkpoint.
    torch.manual_seed((job.seed * 1_000_003 + step) % 2**63)
    batch = read_batch(phase.examples, start, phase.global_batch_size, job.execution.micro_batch_size)
    return train_step(job.model, job.optimizer, batch, job.max_grad_norm)


def _train_event(result: StepResult, lr: float, step_s: float, num_examples: int) -> dict[str, Any]:
    return {
        "loss": sum(result.losses.values()),
        "losses": result.losses,
        "lr": lr,
        "grad_norm": result.grad_norm,
        "skipped": int(result.skipped),
        "step_s": step_s,
        "examples_per_s": num_examples / step_s,
    }


def _finish(job: Job, run: Run) -> dict[str, Any]:
    job.model.eval()
    with checkpoint.replaced_folder(run.model) as scratch:
        job.export(scratch)
    steps = run.metrics("train")
    train_s = sum(event.get("step_s", 0.0) for event in steps)
    scoring_started = time.perf_counter()
    final = job.score()
    result = {
        **job.summary,
        "num_steps": job.num_steps,
        "num_examples": job.num_examples,
        "wall_s": max((event.get("elapsed_s", 0.0) for event in steps), default=0.0)
        + time.perf_counter()
        - scoring_started,
        "train_s": train_s,
        "examples_per_s": job.num_examples / train_s if train_s else None,
        "skipped_steps": sum(event.get("skipped", 0) for event in steps),
        "final": final,
    }
    write_json(run.result_file, null_for_nonfinite(result))
    return result


def _position(job: Job, step: int) -> tuple[Phase, int, int]:
    """The phase of `step` (of all phases), the step within it, and the number of examples seen before."""
    examples = 0
    for phase in job.phases:
        if step < phase.num_steps:
            return phase, step, examples + step * phase.global_batch_size
        step -= phase.num_steps
        examples += phase.num_examples
    return job.phases[-1], job.phases[-1].num_steps, examples


def _evenly(num_steps: int, count: int) -> set[int]:
    """`count` steps (all, where there are fewer) spread evenly over 1 .. num_steps, the last one among them."""
    count = min(count, num_steps)
    return {math.ceil(num_steps * part / count) for part in range(1, count + 1)}


def _last_step(run: Run) -> int:
    return max((event["step"] for event in run.metrics("train")), default=0)
