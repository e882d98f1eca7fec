"""Steps of optimizers: how the parameters are grouped, what the paper expects, and what a step left as it was."""

import copy

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode


def groups(params):
    """Adapted; not adapted; three layers in one tensor."""
    return [{"params": params[:4]}, {"params": params[4:5], "adapt": False}, {"params": params[5:], "blocks": 3}]


def expected(row, problem):
    whole = [row.oracle(problem.xs[i], problem.of(i), problem.rates) for i in range(5)]
    cut = [np.split(a, 3) for a in (problem.xs[5], *problem.of(5))]
    return [*whole, np.concatenate([row.oracle(x, gs, problem.rates) for x, *gs in zip(*cut, strict=True)])]


def snapshot(optimizer, params):
    return copy.deepcopy(([p.detach() for p in params], optimizer.state_dict()["state"]))


def same(a, b):
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def assert_bitwise(now, then):
    assert all(same(p, x) for p, x in zip(now[0], then[0], strict=True))
    assert now[1].keys() == then[1].keys()
    for key, state in now[1].items():
        assert all(same(value, then[1][key][name]) for name, value in state.items())


class Waits(TorchDispatchMode):
    """Counts the reads of a tensor by the host."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))
