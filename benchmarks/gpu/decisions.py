"""What the engine decides by itself: compiled blocks that stay compiled, and the micro-batch that fits."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from gpu import problems
from gpu.clocks import settle
from gpu.day import Day, Range, about, needed
from gpu.problems import Steps
from gpu.speed import free

from anybatch.engine import Phase, SilentProgress, join_ranks, train
from anybatch.engine.micro_batch import choose_micro_batch_sizes
from anybatch.models.bert import PretrainingModel
from anybatch.runs import Run

GRAPHS: dict[str, Range] = {
    "compiled with checkpointing: graphs": needed("graphs", 1, 4),
    "two phases with evaluation: graphs": needed("graphs", 1, 16),
    "two phases with evaluation: warnings of the limit": needed("warnings", 0, 0),
    "two phases: loss against eager": needed("relative", 0, 2e-3),
}


def graphs(day: Day) -> None:
    """Whether compiled blocks stay compiled: with activation checkpointing, and over two phases with evaluations."""
    settings = problems.large(day.tiny, dropout=0.0, layers=4)
    short, long = (problems.bert(settings, day.size(length, length // 8)) for length in (128, 512))
    with _graphs() as counted:
        steps = Steps.of(
            problems.job(short, day.device, 4, 1, compile=True, activation_checkpointing=True, precision="bf16")
        )
        steps.take(problems.share(short, 4, 2, day.device))
        settle(day.device)
    day.figure("compiled with checkpointing: graphs", counted())
    losses = {}
    for compiled in (False, True):
        torch._dynamo.reset()
        phases = [Phase(kind.examples, 10, 4, 1e-3, 0, lambda t: 1.0) for kind in (short, long)]
        job = problems.job(
            short, day.device, 10, 4, phases=phases, compile=compiled, precision="bf16", micro_batch_size=4,
            num_evals=4,
        )  # fmt: skip
        run = Run(day.scratch / f"compiled-{compiled}")
        run.path.mkdir()
        with _graphs() as counted, _warnings_of("torch._dynamo") as heard:
            train(job, run)
        losses[compiled] = [event["loss"] for event in run.metrics("train")]
    day.figure("two phases with evaluation: graphs", counted())
    day.note("warnings", heard)
    day.figure("two phases with evaluation: warnings of the limit", sum("recompile_limit" in line for line in heard))
    day.note("losses", {"eager": losses[False], "compiled": losses[True]})
    pairs = zip(losses[True], losses[False], strict=True)
    day.figure("two phases: loss against eager", max(abs(a - b) / abs(b) for a, b in pairs))


@contextmanager
def _graphs() -> Iterator[Callable[[], int]]:
    """A function that says how many graphs were compiled in the block."""
    from torch._dynamo.utils import counters

    counters.clear()
    yield lambda: int(counters["stats"]["unique_graphs"])


@contextmanager
def _warnings_of(logger: str) -> Iterator[list[str]]:
    heard: list[str] = []

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    handler = Listening(logging.WARNING)
    logging.getLogger(logger).addHandler(handler)
    try:
        yield heard
    finally:
        logging.getLogger(logger).removeHandler(handler)


AUTO: dict[str, Range] = {
    **{f"{kind}: size": about("examples", (200, 1_024)) for kind in ("fresh", "loaded")},
    **{f"{kind}: search": about("s", (0, 30)) for kind in ("fresh", "loaded")},
    **{f"{kind}: steps without an error": needed("steps", 3, None) for kind in ("fresh", "loaded")},
    **{f"{kind}: peak of the memory": about("share", (0.5, 0.97)) for kind in ("fresh", "loaded")},
    "fsdp, less memory: loss fell": needed("yes", 1, 1),
    "fsdp, less memory: shards that moved": needed("share", 0.99, 1),
}


def auto(day: Day) -> None:
    """The micro-batch that is searched for: of a new model, a loaded one, and of shards with less memory."""
    settings = problems.large(day.tiny)
    problem = problems.bert(settings, day.size(128, 16))
    batch = day.size(4_096, 8)
    saved = day.scratch / "saved"
    for kind in ("fresh", "loaded"):
        with day.device:
            model = problem.model()
        if kind == "fresh":
            model.save(saved)
        else:
            model = PretrainingModel.load(saved)
        job = problems.job(problem, day.device, batch, 5, model=model, micro_batch_size="auto", precision="bf16")
        steps = Steps.of(job)
        if kind == "loaded":
            job.model.eval()
        if day.cuda:
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        size = choose_micro_batch_sizes(job, steps.parallel, SilentProgress())[0]
        day.figure(f"{kind}: search", time.perf_counter() - started)
        day.figure(f"{kind}: size", size)
        job.model.train()
        size = min(size, batch)
        for number in range(3):
            steps.take(problems.share(problem, size, batch // size, day.device, start=number))
            day.figure(f"{kind}: steps without an error", number + 1)
        if day.cuda:
            used = torch.cuda.max_memory_allocated() / torch.cuda.get_device_properties(0).total_memory
            day.figure(f"{kind}: peak of the memory", used)
        else:
            day.none(f"{kind}: peak of the memory", "no GPU: a CPU's memory is not searched")
        del job, steps, model
        free()
    # As if another process had most of the memory.
    ballast = None
    if day.cuda:
        total = torch.cuda.get_device_properties(0).total_memory
        ballast = torch.empty(int(0.65 * total), dtype=torch.uint8, device=day.device)
    with join_ranks(url=f"file://{day.scratch}/meeting?rank=0&world_size=1") as one:
        job = problems.job(problem, day.device, batch, 5, micro_batch_size="auto", precision="bf16", parallel="fsdp")
        steps = Steps.of(job, one)
        size = min(choose_micro_batch_sizes(job, steps.parallel, SilentProgress())[0], batch)
        job.model.train()
        before = [p.to_local().detach().clone() for p in job.model.parameters()]
        given = problems.share(problem, size, min(4, batch // size), day.device)
        losses = [sum(steps.take(given).losses.values()) for _ in range(3)]
        pairs = list(zip(before, job.model.parameters(), strict=True))
        day.note("fsdp, less memory", {"size": size, "losses": losses})
        day.figure("fsdp, less memory: loss fell", int(losses[-1] < losses[0]))
        day.figure("fsdp, less memory: shards that moved",
                   sum(not torch.equal(a, b.to_local()) for a, b in pairs) / len(pairs))  # fmt: skip
    del ballast
