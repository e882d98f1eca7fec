"""Finds the largest micro-batch for a GPU's memory: measures small sizes, extrapolates, and agrees with all ranks."""

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

# On a CPU larger micro-batches gain nothing, and everything else shares the memory.
CPU_MICRO_BATCH_SIZE = 32
# No GPU gains from more, and some kernels take at most 65,535 rows.
_LARGEST = 4096
# The memory that an optimizer such as LAMB needs beside the model: two moments and an update.
_COPIES = 3
# The share of the memory that stays free: for fragments, and for batches with more masked words than those measured.
_RESERVE = 0.08
_LARGEST_PROBE = 16
_SMALLER = ("choose a smaller model or shorter sequences, or set engine.activation_checkpointing=true, or "
            "engine.parallel=fsdp")  # fmt: skip


class Memory(Protocol):
    """A device's memory as the search needs it."""

    def available(self) -> int:
        """Returns the bytes that this process can still take, including those that its allocator holds unused."""
        ...

    def peak(self, call: Callable[[], None]) -> int:
        """Returns the largest number of bytes that `call` takes at a time, besides those taken before."""
        ...


class CudaMemory:
    """The memory of the current CUDA device, minus a reserve."""

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
    """Returns one micro-batch size a phase: the job's, or the largest that fits.

    With "auto" on a GPU, every phase is measured in training mode at small sizes. The size that leaves room for the
    optimizer's state and a reserve is tried once. A phase with groups of examples has no choice.

    Args:
        memory: the memory to measure; None: the GPU's, on a CPU none.

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
    # The first pass takes memory that stays: the libraries' handles and workspaces.
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
    """Returns the micro-batch, of at most `share` examples, whose pass takes at most `room` bytes on every rank.

    A pass takes a fixed number of bytes, plus a number in proportion to its examples. The bytes are measured for 1 and
    2 examples, then for up to 16 that fit in half the room, and once at the resulting size. The pieces of a share are
    made nearly equal.

    Args:
        measure: returns the bytes of a pass over N examples. Every rank measures the same sizes in the same order.

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
    """Returns the number of examples that take `room` bytes, on the line through the last two measurements."""
    if len(sizes) == 1:
        return int(taken[0] <= room)
    (low, high), (less, more) = sizes[-2:], taken[-2:]
    # Below the allocator's grain, two sizes may take the same; no examples take nothing.
    slope = max((more - less) / (high - low), more / high / 100, 1.0)
    return high + int((room - more) // slope)


def _agreed(size: int, ranks: Ranks) -> int:
    return ranks.least(max(size, 0), "finding the micro-batch size")


def _even(share: int, size: int) -> int:
    """Returns at most `size`, so that a share is cut into the same number of nearly equal pieces."""
    pieces = -(-share // size)
    return -(-share // pieces)


def _local_bytes(p: Tensor) -> int:
    here = p.to_local() if hasattr(p, "to_local") else p
    return here.numel() * max(here.element_size(), 4)


def _measured(memory: Memory, parallel: Parallel, phase: Phase, size: int) -> int:
    """Returns the bytes of a forward and a backward pass, and discards the gradients.

    A rank that runs out of memory here cannot continue: the exception leaves FSDP2 in a broken state.
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
