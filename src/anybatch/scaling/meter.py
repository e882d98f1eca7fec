"""The gradient noise scale of a training loop, measured from the loop's own micro-batches."""

import sys
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from anybatch.scaling.noise import NoiseScale, noise_scale

# Elements that one fp32 dot product may sum: its error grows with their number, and is 1e-5 at this one.
_CHUNK = 2**18

# Elements of a gradient that are compared to detect a change.
_SAMPLE = 64


class GradientNoiseScale:
    """Measures B_simple = tr(Sigma)/|G|^2 in examples, over all parameters and for each.

        noise = GradientNoiseScale(model, optimizer)          # once
        noise.micro_batch(num_examples)                       # after every backward pass
        noise.step()                                          # before clipping and optimizer.step()

        noise.estimate()                                      # NoiseScale: value, 95 % interval

    Each measured step gives squared gradient norms at two batch sizes. With plain parameters, a hook reads the norms
    of every micro-batch on every rank before the gradients are added up; the second size is the whole step. FSDP2 sums
    over ranks first, so the first size is the first micro-batch over all ranks. FSDP2 therefore needs at least two
    micro-batches, with gradients synchronized in each.

    If a gradient is changed (divided, clipped, unscaled) between the last `micro_batch()` and `step()`, the noise
    scale would be meaningless; `estimate()` refuses it. A GradScaler scales the gradients of the backward passes, but
    not the gradients that the optimizer gets: name the scaler, and call `step()` after `unscale_`:

        noise = GradientNoiseScale(model, optimizer, scaler=scaler)
        ...
        scaler.unscale_(optimizer)
        noise.step()

    With an Adam-like optimizer, also measures the preconditioned noise scale tr(P Sigma)/(G' P G). P is what the
    update multiplies a gradient with: 1/(sqrt(v_hat) + eps), times the layer's trust ratio under LAMB. It is the batch
    after which larger batches stop paying for this optimizer. The plain noise scale is this batch for SGD and LARS,
    and is the one that others publish.

    Args:
        model: the model that is trained: a module, DDP's wrapper, or a module after `fully_shard`.
        optimizer: gives P; None leaves the preconditioned noise scale out.
        every: measure every N steps; the other steps cost nothing. A measured step reads every gradient once more for
            each micro-batch, with an optimizer also v. None: only the steps that `measure()` begins.
        window: measured steps to keep.
        ranks: whether the gradient of a step is the "sum" or the "mean" of the ranks' gradients; default: the mean
            under DDP, otherwise the sum. If torch.distributed is running, all ranks must measure the same steps.
        scaler: the loop's `torch.amp.GradScaler`. Its scale is read on the host, once a measured step.

    Raises:
        ValueError: naming the argument, its value and its bound; a step of a single micro-batch on one rank; or, from
            the methods that return results, that the gradient of a step was not the sum of its micro-batches'
            gradients.

    Source: McCandlish et al. 2018, arXiv 1812.06162.

    Example: two micro-batches of 4 examples a step.
        >>> model = nn.Linear(3, 1)
        >>> noise = GradientNoiseScale(model)
        >>> for step in range(20):
        ...     for _ in range(2):
        ...         (model(torch.randn(4, 3)).square().mean() / 2).backward()
        ...         noise.micro_batch(4)
        ...     noise.step()
        ...     model.zero_grad()
        >>> noise.estimate().num_steps
        20
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        every: int | None = 1,
        window: int = 1000,
        ranks: Literal["sum", "mean"] | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        for name, value in (("every", 1 if every is None else every), ("window", window)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} is not an int of at least 1")
        if ranks not in (None, "sum", "mean"):
            raise ValueError(f"ranks={ranks!r} is not one of sum, mean")
        wrapped = isinstance(model, DistributedDataParallel)
        module = model.module if isinstance(model, DistributedDataParallel) else model
        self._parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if not self._parameters:
            raise ValueError("model has no parameter that requires a gradient")
        self._optimizer, self._every, self._scaler = optimizer, every, scaler
        self._removed = False
        self._mean = (ranks or ("mean" if wrapped else "sum")) == "mean"
        self._sharded = any(_is_sharded(p) for p in self._parameters.values())
        self._rows = 1 if optimizer is None else 2
        self._steps = 0
        # One tensor a measured step: (|G|^2, tr(Sigma)) of each row (plain, preconditioned) and layer.
        self._seen: deque[Tensor] = deque(maxlen=window)
        # For the same steps: whether the gradient was the sum of the micro-batches' gradients, judged by a few
        # elements.
        self._whole: deque[Tensor] = deque(maxlen=window)
        self._witness = min(self._parameters, key=lambda name: self._parameters[name].numel())
        self._weights: dict[str, Tensor] | None = None
        self._current: dict[int, Tensor] = {}
        self._inverse: float = 0.0
        self._count: int = 0
        self._examples: int = 0
        self._first_examples: int = 0
        self._small = self._given = torch.zeros((), dtype=torch.float64, device="cpu")
        self._start_step()
        self._hooks = self._attached()

    def _attached(self) -> list[RemovableHandle]:
        parameters = enumerate(self._parameters.values())
        return [] if self._sharded or self._removed else [p.register_hook(self._hook(i)) for i, p in parameters]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_hooks": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copy measures the copies of the parameters, which have no hooks.
        self.__dict__.update(state)
        self._hooks = self._attached()

    def measure(self) -> None:
        """Measures the next step, even if `every` skips it."""
        self._start_step()
        self._measuring = not self._removed

    def micro_batch(self, num_examples: int) -> None:
        """Records a backward pass of `num_examples` examples on this rank; call it after the pass."""
        if not isinstance(num_examples, int) or num_examples < 1:
            raise ValueError(f"num_examples={num_examples!r} is not an int of at least 1")
        if not self._measuring:
            return
        self._count += 1
        self._examples += num_examples
        if self._sharded:
            self._given = _sample(self._parameters[self._witness].grad)
            if self._count == 1:
                self._first_examples = num_examples
                self._small = self._squares_of_gradients()
            return
        # The hooks have added the squares of this micro-batch's gradients to `_current`.
        self._small = self._small + self._stacked(self._current) / num_examples**2
        self._inverse += 1 / num_examples
        self._current = {}

    def idle(self) -> None:
        """Records a backward pass without examples, which only keeps this rank in step with the others."""
        if self._measuring and self._sharded:
            self._given = _sample(self._parameters[self._witness].grad)

    def step(self) -> None:
        """Ends a step; call it when the step's gradient is complete, before it is changed or cleared."""
        if self._measuring:
            self._record()
        self._steps += 1
        self._start_step()

    def remove(self) -> None:
        """Removes the hooks from the model; keeps what was measured."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._measuring = False
        self._removed = True

    def estimate(self, *, preconditioned: bool = False) -> NoiseScale:
        """Returns the noise scale of all parameters together, over the steps measured so far.

        Raises:
            ValueError: fewer than 3 steps, or `preconditioned` without an Adam-like optimizer.
        """
        return noise_scale(*self.history(preconditioned=preconditioned))

    def layers(self, *, preconditioned: bool = False) -> dict[str, NoiseScale]:
        """Returns the noise scale of each parameter by itself, by name."""
        measured = self._measured(preconditioned)
        squares, traces = measured.unbind(1)
        return {
            name: noise_scale(squares[:, index].tolist(), traces[:, index].tolist())
            for index, name in enumerate(self._parameters)
        }

    def history(self, *, preconditioned: bool = False) -> tuple[list[float], list[float]]:
        """Returns the unbiased |G|^2 and tr(Sigma) over all parameters, for every measured step in order."""
        squares, traces = self._measured(preconditioned).sum(2).T.tolist()
        return squares, traces

    def last_step(self) -> dict[str, Any]:
        """Returns the newest measured step in detail: pairs (|G|^2, tr(Sigma)), as JSON values.

        Returns:
            "layers": the pair of each parameter, by name; "preconditioned": the pair of all together, if an Adam-like
            optimizer gives P.
        """
        squares, traces = self._measured(False)[-1].tolist()
        found: dict[str, Any] = {
            "layers": {
                name: [square, trace] for name, square, trace in zip(self._parameters, squares, traces, strict=True)
            }
        }
        if self._rows == 2 and len(measured := self._measured(True)):
            found["preconditioned"] = measured[-1].sum(1).tolist()
        return found

    def _measured(self, preconditioned: bool) -> Tensor:
        """Finite steps: float64[steps, 2, layers]."""
        row = int(preconditioned)
        if row >= self._rows:
            raise ValueError("preconditioned=True needs the optimizer that makes the preconditioner")
        if not self._seen:
            raise ValueError(
                "no step was measured: call micro_batch() after each backward pass and step() after the last"
            )
        if not torch.stack(list(self._whole)).all():
            raise ValueError(
                f"the gradient of {self._witness} at step() was not the sum of what the micro-batches gave: call "
                "step() before clipping or dividing, zero gradients before a step, and name a GradScaler (scaler=...)"
            )
        # [steps, 2, rows, layers]; one transfer.
        found = torch.stack(list(self._seen)).cpu()[:, :, row]
        return found[torch.isfinite(found).flatten(1).all(1)]

    def _start_step(self) -> None:
        self._measuring = not self._removed and self._every is not None and self._steps % self._every == 0
        self._current = {}
        self._small = self._given = torch.zeros((), dtype=torch.float64, device="cpu")
        self._inverse, self._count, self._examples, self._first_examples = 0.0, 0, 0, 0
        self._weights = None

    def _hook(self, index: int) -> Any:
        name = list(self._parameters)[index]

        def add(gradient: Tensor) -> None:
            if not self._measuring:
                return
            if name == self._witness:
                self._given = self._given + _sample(gradient)
            squares = self._squares(name, gradient)
            self._current[index] = self._current[index] + squares if index in self._current else squares

        return add

    def _record(self) -> None:
        """Computes the two unbiased estimates of this step, with one all-reduce."""
        large = self._squares_of_gradients()
        scale = 1.0 if self._scaler is None else self._scaler.get_scale()
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        size = dist.get_world_size() if several else 1
        small = (self._small.to(large.device) / scale**2).expand_as(large)
        counts = [self._count, self._inverse, self._examples, self._first_examples]
        given = self._given.to(large.device).expand(2, _SAMPLE) / scale
        whole = _sample(self._parameters[self._witness].grad).to(large.device)
        packed = torch.cat([small.flatten(), large.new_tensor(counts), given.flatten(), whole.flatten()])
        if self._sharded:
            packed = torch.cat([packed, large.flatten()])
        if several:
            dist.all_reduce(packed)
        cells = large.numel()
        small = packed[:cells].view_as(large)
        # Only the four counts are computed on the host. If one rank measures, they never were on the device.
        count, inverse, examples, first = packed[cells : cells + 4].tolist() if several else counts
        rest = cells + 4 + 4 * _SAMPLE
        given, sizes, whole, _ = packed[cells + 4 : rest].view(4, _SAMPLE)
        # If every rank already has the sum of all ranks' gradients, the all-reduce has added it once for each rank.
        times = 1 if self._sharded or self._mean else size
        # Rounding, also in bf16, is far below a fiftieth. A step that is not finite is left out in any case.
        self._whole.append(~((whole - times * given).abs().sum() > 0.02 * times * sizes.sum()))
        if self._sharded:
            large = packed[rest:].view_as(large)
            small, small_inverse = small * (examples / first) ** 2, 1 / first
        else:
            scale = examples / size if self._mean else examples
            small, small_inverse = small * scale**2 / count, inverse / count
        large_inverse = 1 / examples
        if not small_inverse > large_inverse:
            raise ValueError(
                f"{int(self._count)} micro-batch on {size} rank{'s' * (size > 1)}: the noise scale needs at least two "
                f"a step" + (", of FSDP2's on each rank" if self._sharded else "")
            )
        trace = (small - large) / (small_inverse - large_inverse)
        self._seen.append(torch.stack([large - trace * large_inverse, trace]))

    def _squares_of_gradients(self) -> Tensor:
        """Squared norms of what this rank holds of `p.grad`: float64[rows, layers]."""
        found = {}
        for index, (name, p) in enumerate(self._parameters.items()):
            if p.grad is not None:
                found[index] = self._squares(name, p.grad)
        if not found:
            raise ValueError("no parameter has a gradient: call after backward(), with FSDP2 synchronizing every one")
        return self._stacked(found)

    def _squares(self, name: str, gradient: Any) -> Tensor:
        """(|g|^2, g' P g) of this rank's part of a gradient; a replica counts as its part of the whole."""
        parts = 1
        if _is_sharded(gradient):
            mesh = gradient.device_mesh
            for dimension, placement in enumerate(gradient.placements):
                parts *= mesh.size(dimension) if placement.is_replicate() else 1
            gradient = gradient.to_local()
        gradient = gradient.detach()
        squares = [square_sum(gradient)]
        if self._rows == 2:
            weights = self._preconditioner().get(name)
            squares.append(
                squares[0] * torch.nan if weights is None else (gradient * gradient * weights).sum(dtype=torch.float64)
            )
        return torch.stack(squares) / parts

    def _preconditioner(self) -> Mapping[str, Tensor]:
        """Returns P of every parameter for which the optimizer has a state; P changes with each step."""
        if self._weights is None:
            assert self._optimizer is not None
            self._weights = preconditioner(self._optimizer, self._parameters)
        return self._weights

    def _stacked(self, squares: Mapping[int, Tensor]) -> Tensor:
        first = next(iter(squares.values()))
        zero = torch.zeros_like(first)
        return torch.stack([squares.get(index, zero) for index in range(len(self._parameters))], dim=1)


def _sample(gradient: Any) -> Tensor:
    """Returns the first elements that this rank holds, and their sizes: float64[2, _SAMPLE], padded with 0."""
    if gradient is None:
        return torch.zeros(2, _SAMPLE, dtype=torch.float64, device="cpu")
    local = (gradient.to_local() if _is_sharded(gradient) else gradient).detach().reshape(-1)[:_SAMPLE].double()
    few = torch.nn.functional.pad(local, (0, _SAMPLE - len(local)))
    return torch.stack([few, few.abs()])


def square_sum(tensor: Tensor) -> Tensor:
    """Returns the sum of squares in float64, at the speed of one read; relative error at most 1e-5 in fp32."""
    if tensor.device.type == "cpu" and tensor.dtype == torch.float32 and tensor.is_contiguous():
        flat = tensor.view(-1)
        parts: tuple[Tensor, ...] = torch.split(flat, _CHUNK)
        return torch.stack([torch.dot(part, part) for part in parts]).sum(dtype=torch.float64)
    norm: Tensor = torch.linalg.vector_norm(tensor, dtype=torch.float64)
    return norm.square()


@torch.no_grad()
def preconditioner(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns what an Adam-like update multiplies a gradient with, by element, for each parameter with a state.

    1/(sqrt(v/(1 - beta2^t)) + eps), times the layer's last trust ratio if the optimizer has one.
    """
    names = {parameter: name for name, parameter in parameters.items()}
    ratios: Mapping[str, Any] = getattr(optimizer, "trust_ratios", dict)()
    found = {}
    for index, group in enumerate(optimizer.param_groups):
        labels: Sequence[str] = group.get("param_names") or [f"{index}.{k}" for k in range(len(group["params"]))]
        for label, p in zip(labels, group["params"], strict=True):
            state = optimizer.state.get(p, {})
            if p not in names or "exp_avg_sq" not in state:
                continue
            second = state["exp_avg_sq"]
            second = second.to_local() if _is_sharded(second) else second
            correction = 1 - group["betas"][1] ** float(state["step"]) if group.get("bias_correction", True) else 1.0
            weights = 1 / ((second / correction).sqrt() + group["eps"])
            found[names[p]] = weights * ratios[label].ratio if label in ratios else weights
    return found


def _is_sharded(t: Any) -> bool:
    """Returns whether `t` is a DTensor; does not import DTensor's module, which is large."""
    distributed = sys.modules.get("torch.distributed.tensor")
    return distributed is not None and isinstance(t, distributed.DTensor)
