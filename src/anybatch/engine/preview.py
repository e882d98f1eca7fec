"""Measures what a job would take, on a micro-batch and an optimizer step of each phase, on a model thrown away."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from anybatch.engine.devices import decided
from anybatch.engine.job import Job, Phase
from anybatch.engine.loading import cut, read_share
from anybatch.engine.micro_batch import choose_micro_batch_sizes
from anybatch.engine.parallel import Parallel, parallelize
from anybatch.engine.ranks import Ranks
from anybatch.engine.step import train_step
from anybatch.progress import SilentProgress

# Repetitions are timed until they take this long together: short ones vary most. If a pass takes this long, larger
# ones are not tried; their time follows in proportion: a ResNet-50's group takes minutes on a CPU.
_LONG_ENOUGH_S = 0.5
_MOST_REPETITIONS = 5


@dataclass(frozen=True)
class Cost:
    """The cost of one phase on one rank, without communication.

    `micro_batch_size` is the chosen size, limited by a rank's share of the batch; `activation_bytes` is what a
    micro-batch keeps for its backward pass. If a part of a micro-batch takes long enough to be timed, both follow from
    this part in proportion.
    """

    micro_batch_size: int
    step_s: float
    activation_bytes: int


@dataclass(frozen=True)
class Preview:
    """`state_bytes`: parameters, their gradients, and the optimizer's state, each whole."""

    costs: list[Cost]
    state_bytes: dict[str, int]


def preview(job: Job, num_ranks: int) -> Preview:
    """Measures `job` as one of `num_ranks` ranks would run it; its model cannot be used afterwards."""
    ranks = Ranks()
    execution = decided(replace(job.execution, parallel="none"), ranks.device, job.model)
    job = replace(job, execution=execution)
    parallel = parallelize(job, ranks)
    for group in job.optimizer.param_groups:
        group["lr"] = 0.0
    parallel.module.train()
    sizes = choose_micro_batch_sizes(job, parallel, SilentProgress())
    costs = [_cost(job, parallel, phase, size, num_ranks) for phase, size in zip(job.phases, sizes, strict=True)]
    parameters = _bytes(list(job.model.parameters()))
    states = [value for state in job.optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return Preview(costs, {"parameters": parameters, "gradients": parameters, "optimizer": _bytes(states)})


def _cost(job: Job, parallel: Parallel, phase: Phase, micro_batch_size: int, num_ranks: int) -> Cost:
    # No rank's share is larger than the last rank's.
    pieces = cut(0, phase.global_batch_size, num_ranks - 1, num_ranks, micro_batch_size, phase.group_size)
    whole = pieces[0]
    for count in _growing(whole.count):
        read = read_share(phase.examples, [replace(whole, count=count)])
        # Images are read here, and not in every step that is timed.
        one = replace(read, micro_batches=list(read.micro_batches))
        with _saved_bytes(parallel.module) as saved:
            train_step(parallel, job.optimizer, one, None)
        step_s = _time(partial(train_step, parallel, job.optimizer, one, None))
        if step_s > _LONG_ENOUGH_S:
            break
    update_s = _time(lambda: _update(job.optimizer))
    scale = whole.count / count
    pass_s = max(step_s - update_s, 0.0) * scale
    return Cost(whole.count, len(pieces) * pass_s + update_s, round(sum(saved.values()) * scale))


def _growing(count: int) -> list[int]:
    """Returns growing numbers of examples to try, the last `count`; at least two, which BatchNorm needs."""
    counts = [count]
    while counts[0] > 4:
        counts.insert(0, -(-counts[0] // 4))
    return counts


def _update(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _time(call: Callable[[], object]) -> float:
    """Returns the shortest of a few repetitions, in seconds."""
    taken: list[float] = []
    while sum(taken) < _LONG_ENOUGH_S and len(taken) < _MOST_REPETITIONS:
        started = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return min(taken)


@contextmanager
def _saved_bytes(module: nn.Module) -> Iterator[dict[int, int]]:
    """Yields the bytes, by address, that the block's forward passes keep, without parameters."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    found: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        yield found


def _bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
