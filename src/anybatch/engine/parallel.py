"""A model across ranks: a whole copy on each, or shards; what a step and a checkpoint need to know of either."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from operator import attrgetter
from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint as recomputed

from anybatch.engine.batch_norm import RunningStatistics
from anybatch.engine.devices import decided
from anybatch.engine.execution import Execution
from anybatch.engine.gradient_sum import GradientSum
from anybatch.engine.job import Job, Squares
from anybatch.engine.loss_scale import LossScale
from anybatch.engine.ranks import Ranks
from anybatch.errors import Failed, InputError

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


_RECOMPILE_LIMIT = 64
_GRADIENT = attrgetter("grad")


class Parallel:
    """A whole copy of the model on every rank; one rank needs no more.

    `model` is stepped and saved, `module` gets the batches; every rank calls it equally often. Both are the same,
    unless `module` keeps its weights in lower precision.
    """

    # Whether the last backward pass sums gradients over the ranks by itself.
    sums_in_backward = False

    def __init__(self, module: nn.Module, ranks: Ranks, execution: Execution) -> None:
        self.model = module
        self.ranks = ranks
        self._skeleton = _skeleton(module)
        execution = decided(execution, ranks.device, module)
        self._autocast = _AUTOCAST.get(execution.precision)
        self._compiled = execution.compile is True
        self.loss_scale = LossScale() if execution.precision == "fp16" else None
        self.squares: Squares | None = None
        if ranks.device.type == "cuda":
            torch.cuda.set_device(ranks.device)
        module.to(ranks.device)
        if execution.channels_last is True:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if ranks.size > 1:
            for tensor in [*module.parameters(), *module.buffers()]:
                dist.broadcast(tensor.detach(), 0)
        self.statistics = RunningStatistics(module)
        lower = self._autocast if execution.low_precision_weights is True else None
        self.module = module = module if lower is None else _in_lower_precision(module, lower)
        self._params, self._sources = list(self.model.parameters()), list(module.parameters())
        pairs = zip(self._sources, self._params, strict=True)
        self._lower = [(low, p) for low, p in pairs if low.dtype != p.dtype]
        summed = not self.sums_in_backward and (ranks.size > 1 or module is not self.model)
        # Gradients sent in their own dtype are exact.
        sent = torch.bfloat16 if execution.gradient_dtype == "bf16" else None
        self._sum = GradientSum(self._params, ranks, sent, sources=self._sources) if summed else None
        blocks = repeated_blocks(module)
        if execution.activation_checkpointing:
            for block in blocks or [module]:
                block.forward = MethodType(_recomputing, block)
        if self._compiled:
            # All blocks share one code object, which is compiled again for every phase's shapes, with and without
            # masks.
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _RECOMPILE_LIMIT)
            for block in blocks or [module]:
                block.compile()

    def computing(self) -> AbstractContextManager[Any]:
        """The block in which forward passes run."""
        dtype = self._autocast
        return torch.autocast(self.ranks.device.type, dtype or torch.bfloat16, enabled=dtype is not None)

    def eagerly(self) -> AbstractContextManager[Any]:
        """A block in which nothing is compiled: for passes whose sizes or modes no step has."""
        return torch.compiler.set_stance("force_eager") if self._compiled else nullcontext()

    def backward(self, loss: Tensor, last: bool, watched: bool = False) -> None:
        """Runs a backward pass; gradients stay on their rank until the step's `last` one.

        `watched`: hooks on the parameters of `model` see the gradient of this pass.
        """
        copied = self.module is not self.model
        # After the sum over ranks, the ranks' gradients cannot be separated any more.
        if self._sum is not None and last and not (copied and watched):
            self._sum.begin()
        loss.backward()  # type: ignore[no-untyped-call]
        if copied and watched:
            self._hand_on()
        elif copied:
            assert self._sum is not None
            self._sum.gather()

    def _hand_on(self) -> None:
        """Adds the gradients of `module` to those of `model`, as a backward pass of the model would."""
        pairs = [(p, s.grad) for p, s in zip(self._params, self._sources, strict=True) if s.grad is not None]
        for source in self._sources:
            source.grad = None
        torch.autograd.backward([p for p, _ in pairs], [grad.to(p.dtype) for p, grad in pairs])

    def after_backward(self) -> None:
        """Ends the last backward pass: `p.grad` then holds this rank's part of the sum over all ranks."""
        if self._sum is not None:
            self._sum.finish()

    @torch.no_grad()
    def refresh(self) -> None:
        """Makes `module` compute with the changed parameters of `model`."""
        if self._lower:
            torch._foreach_copy_([low for low, _ in self._lower], [p for _, p in self._lower])

    def gradients(self) -> list[Tensor]:
        """Returns this rank's part of the gradients, in place."""
        return [grad for grad in map(_GRADIENT, self._params) if grad is not None]

    def forget_gradients(self) -> None:
        """After a step; an optimizer's `zero_grad` would look at every gradient first."""
        for p in self._params:
            p.grad = None

    def share(self, square: Tensor) -> Tensor:
        """Returns this rank's part of all ranks' sum of squares of all gradients; the rank's own sum is `square`."""
        return square if self.ranks.leader else torch.zeros_like(square)

    def whole(self) -> nn.Module | None:
        """Returns on rank 0 the whole model in eval mode; None on the others, which must call it, too."""
        return self._rebuilt(dict(self.model.named_parameters())) if self.ranks.leader else None

    def _rebuilt(self, parameters: Mapping[str, Tensor]) -> nn.Module:
        buffers = dict(self.model.named_buffers())
        model = _with_parameters(self._skeleton, parameters)
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
        return model.to(self.ranks.device).eval()


class Sharded(Parallel):
    """FSDP2: every parameter is cut along its first dimension, one shard a rank, and gathered on demand."""

    sums_in_backward = True

    def __init__(self, module: nn.Module, ranks: Ranks, execution: Execution) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

        # FSDP2 itself keeps copies in lower precision, of all parameters or of none.
        super().__init__(module, ranks, replace(execution, low_precision_weights=False))
        mesh = init_device_mesh(ranks.device.type, (ranks.size,))
        kept = execution.fsdp.param_dtype
        if kept == "auto":
            chosen = decided(execution, ranks.device, module)
            # BatchNorm's statistics are no parameters and stay in fp32, and a layer takes one dtype.
            low = chosen.low_precision_weights and chosen.precision == "bf16" and not self.statistics.layers
            kept = "bf16" if low else "fp32"
        policy = MixedPrecisionPolicy(
            param_dtype=None if kept == "fp32" else torch.bfloat16,
            # Float64 models are not changed.
            reduce_dtype=_DTYPES[execution.gradient_dtype] if execution.gradient_dtype != kept else None,
        )
        for unit in [*repeated_blocks(module), module]:
            fully_shard(unit, mesh=mesh, mp_policy=policy, reshard_after_forward=execution.fsdp.reshard_after_forward)
        self._params = self._sources = list(module.parameters())
        self._units = [unit for unit in module.modules() if isinstance(unit, FSDPModule)]
        for unit in self._units:
            # A sum, not a mean: the loss is already divided by the global count. Gloo knows only plain sums.
            unit.set_gradient_divide_factor(1.0)
            unit.set_force_sum_reduction_for_comms(True)

    def backward(self, loss: Tensor, last: bool, watched: bool = False) -> None:
        self._units[0].set_requires_gradient_sync(last)
        self._units[0].set_is_last_backward(last)
        loss.backward()  # type: ignore[no-untyped-call]

    def gradients(self) -> list[Tensor]:
        """
        Raises:
            Failed: a gradient is not sharded. FSDP2 leaves parameters whole where a backward pass was broken off, and
                the optimizer, which holds shards, would step nothing.
        """
        grads = []
        for name, p in self.module.named_parameters():
            if not isinstance(p, DTensor) or not isinstance(p.grad, DTensor | None):
                raise Failed(
                    f"{name} is not sharded after the backward pass: an earlier pass was broken off; start the run "
                    "again"
                )
            if p.grad is not None:
                # The local tensor directly: `to_local` would build a graph for every one.
                grads.append(p.grad._local_tensor)
        return grads

    def share(self, square: Tensor) -> Tensor:
        return square

    def whole(self) -> nn.Module | None:
        # One at a time, so that the other ranks hold at most one whole parameter.
        parameters: dict[str, Tensor] = {}
        for name, p in self.module.named_parameters():
            full = p.full_tensor().detach() if isinstance(p, DTensor) else p
            if self.ranks.leader:
                parameters[name] = full
        return self._rebuilt(parameters) if self.ranks.leader else None


def parallelize(job: Job, ranks: Ranks) -> Parallel:
    """Prepares `job.model`, in place, for `job.execution.parallel`; the optimizer's groups get its shards.

    Raises:
        InputError: several ranks for a run that wants one.
    """
    chosen = job.execution.parallel
    if chosen == "none" and ranks.size > 1:
        raise InputError(
            f"engine.parallel = 'none' on {ranks.size} processes: choose ddp or fsdp, or start one process"
        )
    if chosen == "fsdp" and not dist.is_initialized():
        raise InputError("engine.parallel = 'fsdp' needs several processes: add --nproc N, or start it with torchrun")
    before = list(job.model.parameters())
    parallel = (Sharded if chosen == "fsdp" else Parallel)(job.model, ranks, job.execution)
    parallel.squares = job.squares
    if chosen == "fsdp":
        shards = dict(zip(before, parallel.module.parameters(), strict=True))
        for group in job.optimizer.param_groups:
            group["params"] = [shards[p] for p in group["params"]]
    return parallel


def _recomputing(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Runs the block's forward pass, which keeps only its inputs for the backward pass.

    All blocks share this method: dynamo cannot trace a partial as `forward`, and compiles a closure again for every
    block.
    """
    return recomputed(type(block).forward, block, *args, use_reentrant=False, **kwargs)


def repeated_blocks(module: nn.Module) -> Sequence[nn.Module]:
    """Returns the repeated layers of a model: the members of its outermost lists of modules."""
    blocks: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for child in module.modules():
        if isinstance(child, nn.ModuleList) and child not in inside:
            blocks.extend(child)
            inside.update(grandchild for block in child for grandchild in block.modules())
    return blocks


def _skeleton(module: nn.Module) -> nn.Module:
    """Returns a copy of `module` before it is parallelized, whose parameters have a shape and no content."""
    return _with_parameters(module, {name: torch.empty_like(p, device="meta") for name, p in module.named_parameters()})


def _in_lower_precision(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Returns a copy of `module` that keeps in `dtype` what autocast would cast in every pass, and shares the rest.

    These are fp32 parameters only of linear layers and convolutions: a parameter that another layer has too, such as
    an embedding, is cast when it is used. So under autocast the copy computes what `module` would, bit for bit.
    """
    cast, other = set[nn.Parameter](), set[nn.Parameter]()
    for layer in module.modules():
        # transformers' Conv1D is a linear layer with its weight transposed.
        linear = isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) or type(layer).__name__ == "Conv1D"
        (cast if linear else other).update(layer.parameters(recurse=False))
    cast -= other
    parameters = {
        name: p.detach().to(dtype) if p in cast and p.dtype == torch.float32 else p
        for name, p in module.named_parameters()
    }
    return _with_parameters(module, parameters, module.buffers())


def _with_parameters(module: nn.Module, parameters: Mapping[str, Tensor], shared: Iterable[Tensor] = ()) -> nn.Module:
    """Returns a copy of `module` around other parameters, by name; tied ones stay tied."""
    memo: dict[int, Any] = {id(tensor): tensor for tensor in shared}
    memo |= {id(p): nn.Parameter(parameters[name].detach(), p.requires_grad) for name, p in module.named_parameters()}
    return copy.deepcopy(module, memo)
