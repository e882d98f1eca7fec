"""The largest micro-batch that fits in memory, found once and agreed by all ranks."""

from collections.abc import Callable
from functools import partial

import torch

from anybatch.engine.job import Job, Phase
from anybatch.engine.loading import on_device
from anybatch.engine.parallel import Parallel
from anybatch.engine.progress import Progress
from anybatch.engine.ranks import Ranks
from anybatch.errors import Failed

# On a CPU larger micro-batches gain nothing, and memory is shared with everything else.
CPU_MICRO_BATCH_SIZE = 32
# What an optimizer such as LAMB will need beside the model: two moments and an update.
_COPIES = 3


def choose_micro_batch_sizes(job: Job, parallel: Parallel, progress: Progress) -> list[int]:
    """One micro-batch size a phase: what the job says, or what fits.

    On a GPU every phase is tried at a rank's whole share of the batch, which is halved on running out of memory, beside
    room for the optimizer's state. A phase whose examples come in groups has no choice.
    """
    chosen = job.execution.micro_batch_size
    if chosen == "auto" and parallel.ranks.device.type != "cuda":
        chosen = CPU_MICRO_BATCH_SIZE
    if chosen != "auto" or all(phase.group_size for phase in job.phases):
        return [phase.group_size or int(chosen) for phase in job.phases]
    room = [torch.empty_like(p) for p in parallel.module.parameters() for _ in range(_COPIES)]
    sizes = []
    for phase in job.phases:
        share = phase.group_size or -(-phase.global_batch_size // parallel.ranks.size)
        sizes.append(largest_that_fits(partial(_try, parallel, phase), share, parallel.ranks))
    del room
    torch.cuda.empty_cache()
    progress.say(
        f"micro-batches of {', '.join(map(str, sizes))} examples fit in memory (engine.micro_batch_size = auto)"
    )
    return sizes


def largest_that_fits(attempt: Callable[[int], None], largest: int, ranks: Ranks) -> int:
    """The first of largest, largest / 2, ... at which `attempt` runs out of memory on no rank.

    Raises:
        Failed: not even one example fits.
    """
    size = largest
    while size >= 1:
        try:
            attempt(size)
            failed = False
        except torch.OutOfMemoryError:
            failed = True
        if not ranks.any(failed, "finding the micro-batch size"):
            return size
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        size //= 2
    raise Failed("out of memory with a micro-batch of 1 example: choose a smaller model or shorter sequences, or set "
                 "engine.activation_checkpointing=true, or engine.parallel=fsdp")  # fmt: skip


def _try(parallel: Parallel, phase: Phase, size: int) -> None:
    """A forward and a backward pass, whose gradients are thrown away."""
    parallel.statistics.begin()
    try:
        batch = phase.examples.read(0, size)
        with parallel.computing():
            sums, _ = parallel.module(**on_device(batch.inputs, parallel.ranks.device))
        parallel.before_backward(last=parallel.sums_in_backward)
        torch.stack(list(sums.values())).sum().backward()  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    finally:
        parallel.statistics.forget()
        parallel.module.zero_grad(set_to_none=True)
