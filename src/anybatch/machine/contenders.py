"""The contenders: this package's step in each of its ways, and the same or a comparable step of others."""

import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from anybatch.machine.problem import Problem, Unavailable
from anybatch.machine.traffic import pattern
from anybatch.optim import LAMB, LARS

Step = Callable[[], object]
Make = Callable[[Problem, float | None], Step]

_LR = 1e-6
_MOST_JITTED = 2_000
_WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class Contender:
    """One row of the table.

    Attributes:
        role: "ours", "peer" (the same algorithm), "reference" (another algorithm, the unit of the comparison) or
            "pattern".
        make: problem and clip norm -> a step; raises Unavailable.
        bytes_per_parameter: the bytes of a step without clipping; None: counted, operation by operation.
    """

    name: str
    role: Literal["ours", "peer", "reference", "pattern"]
    make: Make
    bytes_per_parameter: float | None = None


def contenders(algorithm: str, compiled: bool) -> list[Contender]:
    """Returns the rows for "lamb" or "lars", ours first; `compiled` adds torch.compile, a minute to start."""
    if algorithm == "lars":
        return [
            Contender("anybatch LARS fused", "ours", _stepping(LARS, clips=True, fused=True), 28),
            Contender("anybatch LARS foreach", "ours", _stepping(LARS, clips=True, foreach=True)),
            Contender("anybatch LARS plain", "ours", _stepping(LARS, clips=True, foreach=False, fused=False)),
            Contender("torch SGD fused", "reference", _stepping(torch.optim.SGD, momentum=0.9, fused=True), 20),
            Contender("memory: 20 bytes, no arithmetic", "pattern", _pattern(1), 20),
            Contender("timm Lars", "peer", _stepping(_peer("timm.lars", "Lars"), momentum=0.9, always_adapt=True)),
            Contender("pytorch_optimizer LARS", "peer", _stepping(_peer("pytorch_optimizer", "LARS"))),
            Contender("optax lars, jitted", "peer", _optax("lars")),
        ]
    timm = _peer("timm.lamb", "Lamb")
    rows = [
        Contender("anybatch LAMB fused", "ours", _stepping(LAMB, clips=True, fused=True), 40),
        Contender("anybatch LAMB foreach", "ours", _stepping(LAMB, clips=True, foreach=True)),
        Contender("anybatch LAMB plain", "ours", _stepping(LAMB, clips=True, foreach=False, fused=False)),
        Contender("torch AdamW fused", "reference", _stepping(torch.optim.AdamW, fused=True), 28),
        Contender("torch AdamW foreach", "reference", _stepping(torch.optim.AdamW, foreach=True)),
        Contender("memory: 28 bytes, no arithmetic", "pattern", _pattern(2), 28),
        Contender("timm Lamb", "peer", _stepping(timm, clips=True, always_adapt=True, foreach=False)),
        Contender("timm Lamb foreach", "peer", _stepping(timm, clips=True, always_adapt=True, foreach=True)),
        Contender("pytorch_optimizer Lamb", "peer", _stepping(_peer("pytorch_optimizer", "Lamb"), foreach=False)),
        Contender("optax lamb, jitted", "peer", _optax("lamb")),
    ]
    if compiled:
        rows.append(Contender("torch.compile of a per-tensor LAMB", "peer", _compiled))
    return rows


def _stepping(kind: Callable[..., torch.optim.Optimizer], *, clips: bool = False, **how: Any) -> Make:
    """Makes the steps of an optimizer; `clips`: it does so itself, by its max_grad_norm."""

    def make(problem: Problem, clip: float | None) -> Step:
        own = {"max_grad_norm": clip} if clips else {}
        try:
            optimizer = kind(problem.params, lr=_LR, weight_decay=_WEIGHT_DECAY, **own, **how)
        except ValueError as error:  # such as of a kernel that is not here
            raise Unavailable(str(error)) from None
        step = _sharing(optimizer, problem)
        if clips or clip is None:
            return step

        def clip_and_step() -> None:
            torch.nn.utils.clip_grad_norm_(problem.params, clip)
            step()

        return clip_and_step

    return make


def _peer(module: str, name: str) -> Callable[..., torch.optim.Optimizer]:
    def optimizer(*args: Any, **how: Any) -> Any:
        return getattr(_installed(module), name)(*args, **how)

    return optimizer


def _installed(module: str) -> Any:
    """Imports a module; of timm the file alone, since the whole of timm needs torchvision."""
    package, _, file = module.partition(".")
    found = importlib.util.find_spec(package)
    try:
        if package == "timm" and found is not None and found.origin is not None:
            alone = types.ModuleType("timm_optim")
            alone.__path__ = [str(Path(found.origin).parent / "optim")]
            sys.modules.setdefault("timm_optim", alone)
            return importlib.import_module(f"timm_optim.{file}")
        return importlib.import_module(module)
    except ImportError:
        raise Unavailable(f"{package} is not installed") from None


def _sharing(optimizer: torch.optim.Optimizer, problem: Problem) -> Step:
    """Returns the optimizer's step on the problem's states; all contenders share the states, to save memory."""
    optimizer.step()
    saved = optimizer.state_dict()
    places = {id(p): i for i, p in enumerate(problem.params)}
    order = [places[id(p)] for group in optimizer.param_groups for p in group["params"]]
    for index, state in saved["state"].items():
        shared = iter((problem.first[order[index]], problem.second[order[index]]))
        for name, value in state.items():
            if isinstance(value, Tensor) and name != "step" and value.shape == problem.params[order[index]].shape:
                state[name] = next(shared, value)
    optimizer.load_state_dict(saved)
    return optimizer.step


def _pattern(states: int) -> Make:
    def make(problem: Problem, clip: float | None) -> Step:
        if problem.device.type != "cpu":
            raise Unavailable("measured on the CPU only")
        params = [p.detach() for p in problem.params]
        return pattern(problem.gradients, [params, problem.first, problem.second][: 1 + states])

    return make


def _optax(name: str) -> Make:
    def make(problem: Problem, clip: float | None) -> Step:
        jax, optax = _installed("jax"), _installed("optax")
        if jax.default_backend() != {"cuda": "gpu"}.get(problem.device.type, problem.device.type):
            raise Unavailable(f"jax computes on its {jax.default_backend()} backend")
        if problem.device.type == "cpu" and torch.get_num_threads() != len(os.sched_getaffinity(0)):
            raise Unavailable("jax takes as many threads as there are cores")
        if len(problem.params) > _MOST_JITTED:
            raise Unavailable(f"XLA takes over 20 GB to compile a step of {len(problem.params):,} arrays")
        rule = getattr(optax, name)(_LR, weight_decay=_WEIGHT_DECAY)
        if clip is not None:
            rule = optax.chain(optax.clip_by_global_norm(clip), rule)
        xs = [jax.numpy.full(p.shape, 0.02) for p in problem.params]
        gradients = [jax.numpy.full(p.shape, 1e-3) for p in problem.params]
        memory = [xs, rule.init(xs)]

        def update(xs: Any, state: Any, gradients: Any) -> Any:
            updates, state = rule.update(gradients, state, xs)
            return optax.apply_updates(xs, updates), state

        jitted = jax.jit(update, donate_argnums=(0, 1))

        def step() -> None:
            memory[:] = jax.block_until_ready(jitted(*memory, gradients))

        return step

    return make


def _compiled(problem: Problem, clip: float | None) -> Step:
    if clip is not None:
        raise Unavailable("measured without clipping only")
    lamb = torch.compile(_lamb_of_one_tensor, dynamic=True)
    flat: list[Sequence[Tensor]] = [
        [t.detach().view(-1) for t in tensors]
        for tensors in (problem.params, problem.gradients, problem.first, problem.second)
    ]
    clock = [0]

    @torch.no_grad()
    def step() -> None:
        clock[0] += 1
        corrections = torch.tensor([1 - 0.9 ** clock[0], 1 - 0.999 ** clock[0]], device=problem.device)
        for x, g, m, v in zip(*flat, strict=True):
            lamb(x, g, m, v, corrections)

    try:
        step()
    except Exception as error:  # whatever is wrong with the compiler is no reason to end the measurement
        raise Unavailable(
            f"torch.compile failed: {str(error).splitlines()[0] if str(error) else type(error)}"
        ) from None
    return step


def _lamb_of_one_tensor(x: Tensor, g: Tensor, m: Tensor, v: Tensor, corrections: Tensor) -> None:
    """Algorithm 2 as somebody would write it for torch.compile: two passes, without waiting."""
    m.lerp_(g, 0.1)
    v.mul_(0.999).addcmul_(g, g, value=0.001)
    u = (m / corrections[0]) / ((v / corrections[1]).sqrt() + 1e-6) + _WEIGHT_DECAY * x
    ratio = x.square().sum().sqrt() / u.square().sum().sqrt()
    x.sub_(_LR * ratio * u)
