"""The training loop: phases of steps, with evaluations, records, checkpoints, and a clean stop when asked."""

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anybatch.engine import checkpoint
from anybatch.engine.background import BackgroundWriter
from anybatch.engine.course import Health, Place, carry_over, enter, evenly, place, seed_generator
from anybatch.engine.devices import computing_on, decided, described
from anybatch.engine.evaluate import evaluate_together
from anybatch.engine.interruption import StopRequest, reason_in, stop_requests
from anybatch.engine.job import Job
from anybatch.engine.loading import Loader, Share, cut, loading, read_share
from anybatch.engine.measure import WatchedNoise, measurements, peak_flops, quantiles
from anybatch.engine.micro_batch import choose_micro_batch_sizes
from anybatch.engine.parallel import Parallel, parallelize
from anybatch.engine.pieces import give_ordinary_permissions, safetensors_errors
from anybatch.engine.ranks import Ranks
from anybatch.engine.records import Mirror, Records
from anybatch.engine.step import StepResult, train_step
from anybatch.errors import Failed, Reached, Stopped
from anybatch.files import new_folder, told, write_json
from anybatch.numbers import null_for_nonfinite
from anybatch.progress import Progress, SilentProgress, Task
from anybatch.runs import Run

# Options that a run's start records as they were decided.
_RECORDED = ("precision", "low_precision_weights", "gradient_dtype", "deterministic", "compile", "channels_last",
             "cudnn_search")  # fmt: skip


def train(
    job: Job,
    run: Run,
    progress: Progress | None = None,
    title: str = "training",
    ranks: Ranks | None = None,
    mirror: Callable[[Path], Mirror] | None = None,
) -> dict[str, Any]:
    """Runs `job` to its end in the folder `run`, from its newest checkpoint if there is one.

    Every rank calls it, with its own job; rank 0 writes the folder, and to its `mirror`.

    Returns:
        The content of result.json: `job.summary`, times, and the scores of the finished model; {} on ranks other than
        0.

    Raises:
        Stopped: a signal asked for it; the state is saved.
        Failed: too many steps in a row had no finite gradient, or another rank is lost.
        InputError: all of the run's checkpoints are damaged.
    """
    ranks = ranks or Ranks()
    progress = progress if progress and ranks.leader else SilentProgress()
    ranks.watch.folder = run.path
    ranks.watch.on_failure = lambda message: run.set_status("failed", _last_step(run), message)
    try:
        # If asked to stop after the last step, a run does the rest: it costs less than resuming.
        job = replace(job, execution=decided(job.execution, ranks.device, job.model))
        if ranks.device.type == "cuda":
            progress.say(described(job.execution, ranks.device))
        with stop_requests() as request, computing_on(ranks.device, job.execution):
            parallel = parallelize(job, ranks)
            micro_batch_sizes = choose_micro_batch_sizes(job, parallel, progress)
            step, problems = checkpoint.load_newest(
                run.checkpoints, job.model, job.optimizer, job.inputs, ranks, loss_scale=parallel.loss_scale
            )
            parallel.refresh()
            for line in problems:
                progress.say(line)
            if ranks.leader:
                run.set_status("running", step)
            last = min(job.execution.stop_after_steps or job.num_steps, job.num_steps)
            task = progress.task(title, place(job, last).start, place(job, step).start)
            try:
                beside = mirror(run.path) if ranks.leader and mirror is not None else None
                with Records(run, step, beside) if ranks.leader else nullcontext() as records:
                    course = _Course(job, run, parallel, micro_batch_sizes, records, progress, task)
                    try:
                        course.go(step, request)
                    except Exception:
                        if course.writer is not None:
                            course.writer.abandon()
                        raise
            finally:
                task.end()
            result = _finish(job, run, parallel)
    except Stopped as stop:
        if ranks.leader:
            run.set_status("stopped", _last_step(run), str(stop))
        ranks.barrier("stopping")
        raise
    except BaseException as error:
        ranks.failed(error)
        raise
    if ranks.leader:
        run.set_status("finished", job.num_steps)
    ranks.barrier("finishing")
    return result


@dataclass
class _Course:
    """A running job: the state that its steps share. Only rank 0 has `records`."""

    job: Job
    run: Run
    parallel: Parallel
    micro_batch_sizes: list[int]
    records: Records | None
    progress: Progress
    task: Task

    def __post_init__(self) -> None:
        job, run, self.ranks = self.job, self.run, self.parallel.ranks
        self.eval_steps = evenly(job.num_steps, job.execution.num_evals) | set(job.execution.evaluate_at)
        self.trust_ratio_steps = evenly(job.num_steps, job.execution.num_trust_ratios)
        self.noise = WatchedNoise(job, self.parallel)
        precision = job.execution.precision
        assert precision != "auto"
        self.peak = peak_flops(self.ranks.device, precision, job.model)
        self.trust_ratios = getattr(job.optimizer, "trust_ratios", None)
        events = run.metrics() if self.ranks.leader else []
        self.earlier_s = max((event.get("elapsed_s", 0.0) for event in events), default=0.0)
        self.health = Health(
            job.execution.max_skipped_steps, [event.get("loss") for event in events if event["event"] == "train"]
        )
        self.started = time.perf_counter()
        self.last_saved = 0
        self.retention = checkpoint.Retention(job.execution.keep_last, job.execution.keep_best)
        beside = job.execution.async_checkpoints
        self.writer = BackgroundWriter(run.checkpoints, self.ranks, self.retention) if beside else None

    def go(self, step: int, request: StopRequest) -> None:
        """Takes the steps from `step` on."""
        job, execution = self.job, self.job.execution
        self.last_saved = step
        if execution.stop_after_steps is not None and execution.stop_after_steps <= step < job.num_steps:
            raise Reached(f"engine.stop_after_steps = {execution.stop_after_steps}; the run is at step {step}")
        enter(job.optimizer, place(job, step).phase)
        self.record("start", step, place(job, step).start, self.cut_described())
        if step == 0:
            self.evaluate(0, 0)
        self.parallel.module.train()
        pin = self.ranks.device.type == "cuda"
        with loading(self.read, range(step, job.num_steps), ahead=execution.prefetch, pin=pin) as loader:
            while step < job.num_steps:
                here = place(job, step)
                started = time.perf_counter()
                self.ranks.watch.doing(f"reading the examples of step {step + 1}")
                share = loader.next()
                result = self.take_step(here, step, share, partial(_flags, request, loader))
                step_s = time.perf_counter() - started
                step += 1
                examples = here.start + here.phase.global_batch_size
                self.record_step(step, examples, here, result, step_s)
                held_out_loss = self.evaluate(step, examples) if step in self.eval_steps else None
                reason = reason_in(result.flags[:-1])
                reached = step == execution.stop_after_steps
                if self.writer is not None and self.writer.done:
                    self.collect_save()
                done = step == job.num_steps
                best = held_out_loss is not None and execution.keep_best > 0
                if done or reason or reached or best or step % execution.checkpoint_every_steps == 0:
                    self.save(step, here.number, held_out_loss, needed=done or reached or bool(reason))
                self.health.check_skipped(result.skipped, step, self.last_saved)
                if reason and not done:
                    raise Stopped(f"{reason} at step {step} of {job.num_steps}; saved, --resume continues from there")
                if reached and not done:
                    asked = f"stopped after step {step} of {job.num_steps}, as engine.stop_after_steps asks"
                    raise Reached(f"{asked}; saved, --resume continues")

    def read(self, step: int) -> Share:
        """Returns this rank's share of step `step`."""
        here = place(self.job, step)
        micro_batch_size = self.noise.micro_batch_size(step, here.phase, self.micro_batch_sizes[here.number])
        ranks, phase = self.ranks, here.phase
        pieces = cut(here.start, phase.global_batch_size, ranks.rank, ranks.size, micro_batch_size, phase.group_size)
        return read_share(phase.examples, pieces)

    def take_step(self, here: Place, step: int, share: Share, flags: Callable[[], list[int]]) -> StepResult:
        """Takes step `step`; its flags are the signals that any rank got, and the ranks' waits for data in µs."""
        optimizer = self.job.optimizer
        if here.index == 0 and here.number > 0:
            carry_over(optimizer, here.phase.carry_over)
            enter(optimizer, here.phase)
        for group in optimizer.param_groups:
            group["lr"] = here.phase.lr * here.phase.schedule(here.index)
        # Dropout draws from torch's generator: seeded by seed, step and rank, it need not be in a checkpoint.
        seed_generator((self.job.seed * 1_000_003 + step + self.ranks.rank * 0x9E3779B97F4A7C15) % 2**63)
        return train_step(
            self.parallel,
            optimizer,
            share,
            self.job.max_grad_norm,
            flags,
            self.noise.meter(step, here.phase),
        )

    def record(self, event: str, step: int, examples: int, values: Mapping[str, Any]) -> None:
        if self.records is not None:
            elapsed_s = self.earlier_s + time.perf_counter() - self.started
            self.records.write(event, step, {"examples": examples, **values, "elapsed_s": elapsed_s})

    def record_step(self, step: int, examples: int, here: Place, result: StepResult, step_s: float) -> None:
        """Records the events of a step; gradient noise and trust ratios at some steps."""
        loss = sum(result.losses.values())
        values = {
            "phase": here.number,
            "loss": loss,
            "losses": result.losses,
            "lr": here.phase.lr * here.phase.schedule(here.index),
            "grad_norm": result.grad_norm,
            "clipped": int(result.clipped),
            "skipped": int(result.skipped),
            "spike": int(self.health.spike(loss)),
            "step_s": step_s,
            "data_wait_s": result.flags[-1] / 1e6 / self.ranks.size,
            "examples_checksum": f"{result.checksum:016x}",
            **measurements(here.phase, step_s, self.ranks, self.peak),
        }
        self.record("train", step, examples, values)
        self.task.advance(examples, f"loss {loss:.3f}")
        meter = self.noise.meter(step - 1, here.phase)
        # If no step was finite, there is no history.
        if meter is not None and (history := meter.history())[0]:
            noise = {"gradient_square": history[0][-1], "noise_trace": history[1][-1]}
            detail = meter.last_step() if self.job.execution.noise_detail else {}
            self.record("noise", step, examples, {**noise, **detail})
        if self.trust_ratios is not None and step in self.trust_ratio_steps:
            ratios = {name: layer.ratio for name, layer in self.trust_ratios().items()}
            self.record("trust_ratios", step, examples, {"ratios": ratios, "quantiles": quantiles(ratios)})

    def evaluate(self, step: int, examples: int) -> float:
        """Evaluates, records, and returns the held-out loss."""
        evaluation = evaluate_together(self.parallel, self.job.held_out)
        self.record("eval", step, examples, evaluation.to_json())
        return evaluation.loss

    def save(self, step: int, phase: int, held_out_loss: float | None, needed: bool) -> None:
        """Saves; if it fails, the previous checkpoint stays, and the run continues unless this one was `needed`.

        A needed checkpoint is written before this returns; any other one during the next steps, if so chosen.
        """
        if self.records is not None:
            self.records.flush()
        self.collect_save()
        self.ranks.watch.doing("saving a checkpoint")
        job = self.job
        content = checkpoint.content(
            step, job.model, job.optimizer, job.inputs, self.ranks, phase=phase, held_out_loss=held_out_loss,
            loss_scale=self.parallel.loss_scale,
        )  # fmt: skip
        if self.writer is not None and not needed:
            self.writer.start(content)
            return
        try:
            checkpoint.write(self.run.checkpoints, content, self.ranks, self.retention)
            self.last_saved = step
        except OSError as error:
            if needed:
                raise
            self.save_failed(step, error)

    def collect_save(self) -> None:
        """Waits for the checkpoint in progress, and reports how it ended."""
        if self.writer is None:
            return
        self.ranks.watch.doing("waiting for a checkpoint to be written")
        try:
            if self.writer.collect():
                self.last_saved = self.writer.step
        except OSError as error:
            self.save_failed(self.writer.step, error)

    def save_failed(self, step: int, error: OSError) -> None:
        self.record("save_failed", step, place(self.job, step).start, {"message": told(error)})
        self.progress.say(f"step {step}: not saved ({told(error)}); the checkpoint of step {self.last_saved} stays")

    def cut_described(self) -> dict[str, Any]:
        """Describes how the run is executed from here on; the parts of a resumed run may differ."""
        execution = self.job.execution
        several = self.ranks.size > 1
        return {
            "ranks": self.ranks.size,
            "parallel": execution.parallel if execution.parallel != "auto" else "ddp" if several else "none",
            "micro_batch_sizes": self.micro_batch_sizes,
            **{name: getattr(execution, name) for name in _RECORDED},
            "threads": torch.get_num_threads(),
            "device": str(self.ranks.device.type),
        }


def _flags(request: StopRequest, loader: Loader) -> list[int]:
    return [*request.flags(), round(loader.wait_s * 1e6)]


def _last_step(run: Run) -> int:
    return max((event["step"] for event in run.metrics("train")), default=0)


def _finish(job: Job, run: Run, parallel: Parallel) -> dict[str, Any]:
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
