"""What a job would take, measured on a micro-batch and an optimizer step of each phase, on a model thrown away."""

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
from anybatch.engine.parallel import Parallel, parallelise
from anybatch.engine.ranks import Ranks
from anybatch.engine.step import train_step
from anybatch.progress import SilentProgress

# Repetitions are timed until they take this long together: short ones scatter most. A pass that takes as long is not
# tried with more examples, whose time follows from it in proportion: a ResNet-50's own group takes minutes on a CPU.
_LONG_ENOUGH_S = 0.5
_MOST_REPETITIONS = 5


@dataclass(frozen=True)
class Cost:
    """Of one phase on one of the ranks it was asked for, without what ranks take to talk to each other.

    `micro_batch_size` is what a rank's share of the batch leaves of the chosen one; `activation_bytes` is what a
    micro-batch keeps for its backward pass. Where a part of a micro-batch takes long enough to be timed, both follow
    from that part in proportion.
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
    """Measures `job`, whose model is of no use afterwards, as one of `num_ranks` ranks would run it."""
    ranks = Ranks()
    execution = decided(replace(job.execution, parallel="none"), ranks.device, job.model)
    job = replace(job, execution=execution)
    parallel = parallelise(job, ranks)
    for group in job.optimizer.param_groups:
        group["lr"] = 0.0
    parallel.module.train()
    sizes = choose_micro_batch_sizes(job, parallel, SilentProgress())
    costs = [_cost(job, parallel, phase, size, num_ranks) for phase, size in zip(job.phases, sizes, strict=True)]
    parameters = _bytes(list(job.model.parameters()))
    states = [value for state in job.optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return Preview(costs, {"parameters": parameters, "gradients": parameters, "optimizer": _bytes(states)})


def _cost(job: Job, parallel: Parallel, phase: Phase, micro_batch_size: int, num_ranks: int) -> Cost:
    # The last rank has no smaller a share than any.
    pieces = cut(0, phase.global_batch_size, num_ranks - 1, num_ranks, micro_batch_size, phase.group_size)
    whole = pieces[0]
    for count in _growing(whole.count):
        one = read_share(phase.examples, [replace(whole, count=count)])
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
    """Some of `count` examples to try, ever more, the last all of them; two at least, which BatchNorm needs."""
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
    """The shortest of a few repetitions, in seconds."""
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
    """Bytes by address of what the block's forward passes keep, parameters aside."""
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
