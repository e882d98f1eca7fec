"""The largest micro-batch that fits in a GPU's memory: measured at small sizes, extrapolated, agreed by all ranks."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from anybatch.engine.job import Job, Phase
from anybatch.engine.loading import on_device
from anybatch.engine.parallel import Parallel
from anybatch.engine.ranks import Ranks
from anybatch.errors import Failed
from anybatch.progress import Progress

# On a CPU larger micro-batches gain nothing, and memory is shared with everything else.
CPU_MICRO_BATCH_SIZE = 32
# No GPU gains from more, and some kernels take no more than 65,535 rows.
_LARGEST = 4096
# What an optimizer such as LAMB will need beside the model: two moments and an update.
_COPIES = 3
# Share of the memory that stays free: fragments, and batches whose masked words are more than those measured.
_RESERVE = 0.08
_LARGEST_PROBE = 16
_SMALLER = ("choose a smaller model or shorter sequences, or set engine.activation_checkpointing=true, or "
            "engine.parallel=fsdp")  # fmt: skip


class Memory(Protocol):
    """A device's memory as the search needs it."""

    def available(self) -> int:
        """Bytes that this process can still take, those that its allocator holds unused included."""
        ...

    def peak(self, call: Callable[[], None]) -> int:
        """The most bytes that `call` takes at a time, beside what was taken before."""
        ...


class CudaMemory:
    """The memory of the current CUDA device, less a reserve."""

    def available(self) -> int:
        free, total = torch.cuda.mem_get_info()
        unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return int(free + unused - _RESERVE * total)

    def peak(self, call: Callable[[], None]) -> int:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


def choose_micro_batch_sizes(
    job: Job, parallel: Parallel, progress: Progress, memory: Memory | None = None
) -> list[int]:
    """One micro-batch size a phase: what the job says, or what fits.

    With "auto" on a GPU, every phase is measured in training mode at small sizes. The size that leaves room for the
    optimizer's state and a reserve is tried once. A phase whose examples come in groups has no choice.

    Args:
        memory: where to look; None: the GPU, on a CPU nowhere.

    Raises:
        Failed: not even one example fits.
    """
    chosen = job.execution.micro_batch_size
    if memory is None and parallel.ranks.device.type == "cuda":
        memory = CudaMemory()
    if chosen == "auto" and memory is None:
        chosen = CPU_MICRO_BATCH_SIZE
    if chosen != "auto" or all(phase.group_size for phase in job.phases):
        return [phase.group_size or int(chosen) for phase in job.phases]
    assert memory is not None
    parallel.module.train()
    held: list[Tensor] = [p for group in job.optimizer.param_groups for p in group["params"]]
    optimizer_bytes = _COPIES * sum(_local_bytes(p) for p in held)
    # The first pass takes what stays: the libraries' handles and workspaces.
    _measured(memory, parallel, job.phases[0], 1)
    sizes = []
    for phase in job.phases:
        if phase.group_size is not None:
            sizes.append(phase.group_size)
            continue
        share = -(-phase.global_batch_size // parallel.ranks.size)
        room = memory.available() - optimizer_bytes
        measure = partial(_measured, memory, parallel, phase)
        sizes.append(largest_that_fits(measure, share, room, parallel.ranks))
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    progress.say(
        f"micro-batches of {', '.join(map(str, sizes))} examples fit in memory (engine.micro_batch_size = auto)"
    )
    return sizes


def largest_that_fits(measure: Callable[[int], int], share: int, room: int, ranks: Ranks) -> int:
    """The micro-batch, of at most `share` examples, whose pass takes at most `room` bytes on every rank.

    The bytes grow in proportion to the examples, from a fixed part on. They are measured for 1 and 2 examples, then for
    up to 16 that fit in half the room, and once at the size that follows. The pieces of a share are made about equal.

    Args:
        measure: the bytes of a pass over so many examples. Every rank measures the same sizes in the same order.

    Raises:
        Failed: one example takes more than `room` on some rank.
    """
    most = min(share, _LARGEST)
    sizes = [1]
    taken = [measure(1)]
    while (size := min(most, 2 if len(sizes) == 1 else _LARGEST_PROBE)) > sizes[-1]:
        if len(sizes) > 1:
            size = min(size, _agreed(_fitting(sizes, taken, room // 2), ranks))
            if size <= sizes[-1]:
                break
        sizes.append(size)
        taken.append(measure(size))
    fits = min(most, _agreed(_fitting(sizes, taken, room), ranks))
    if fits > sizes[-1]:
        fits = _even(share, fits)
        sizes.append(fits)
        taken.append(measure(fits))
        fits = min(fits, _agreed(_fitting(sizes, taken, room), ranks))
    if fits < 1:
        raise Failed(f"out of memory: a micro-batch of 1 example takes {taken[0] / 1e9:.1f} GB beside the model, and "
                     f"{max(room, 0) / 1e9:.1f} GB are left: {_SMALLER}")  # fmt: skip
    return _even(share, fits)


def _fitting(sizes: list[int], taken: list[int], room: int) -> int:
    """Examples that take `room` bytes, on the line through the last two measurements."""
    if len(sizes) == 1:
        return int(taken[0] <= room)
    (low, high), (less, more) = sizes[-2:], taken[-2:]
    # Below the allocator's grain two sizes may take the same; no example takes nothing.
    slope = max((more - less) / (high - low), more / high / 100, 1.0)
    return high + int((room - more) // slope)


def _agreed(size: int, ranks: Ranks) -> int:
    return ranks.least(max(size, 0), "finding the micro-batch size")


def _even(share: int, size: int) -> int:
    """At most `size` examples, so that a share is cut into as many pieces of about one size."""
    pieces = -(-share // size)
    return -(-share // pieces)


def _local_bytes(p: Tensor) -> int:
    here = p.to_local() if hasattr(p, "to_local") else p
    return here.numel() * max(here.element_size(), 4)


def _measured(memory: Memory, parallel: Parallel, phase: Phase, size: int) -> int:
    """Bytes of a forward and a backward pass, whose gradients are thrown away.

    A rank that runs out of memory here cannot go on: FSDP2 is left with a broken state by an exception.
    """
    batch = phase.examples.read(0, size)
    parallel.statistics.begin()

    def once() -> None:
        with parallel.computing(), parallel.eagerly():
            sums, _ = parallel.module(**on_device(batch.inputs, parallel.ranks.device))
            parallel.backward(torch.stack(list(sums.values())).sum(), last=True)
            parallel.after_backward()

    try:
        return memory.peak(once)
    except torch.OutOfMemoryError as error:
        raise Failed(f"out of memory while measuring a micro-batch of {size} examples ({error}): {_SMALLER}") from None
    finally:
        parallel.statistics.forget()
        parallel.model.zero_grad(set_to_none=True)
