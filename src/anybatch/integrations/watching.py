"""Trust ratios and the gradient noise scale of a loop that is not ours, as names and numbers to log."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from anybatch.scaling import GradientNoiseScale, noise_scale

_LOG = logging.getLogger(__name__)
# Steps that a scheduler may miss before it is known to be stepped once an epoch.
_STEPS_TO_MOVE = 4
_QUANTILES = {"min": 0.0, "p10": 0.1, "p50": 0.5, "p90": 0.9, "max": 1.0}


class Watch:
    """Follows forward and backward passes by hooks; `numbers()` says what they showed.

        trust_ratio/min, p10, p50, p90, max   of the last step, over the layers that are adapted
        noise/gradient_square, noise/trace    |G|^2 and tr(Sigma), means over the steps measured since the last call
        noise/scale, noise/low, noise/high    their ratio over the last 100 measured steps, in examples, and its 95 %
                                              interval; left out while unknown or unbounded

    The loop's integration calls `saw` with what a forward pass is given, `backward_done` after each backward pass, and
    `gradient_done` once a step's gradient is summed and neither clipped nor used; or it gives `is_last`, and the watch
    sees all of it by hooks.

    Args:
        model: as it is trained: a module, DDP's wrapper, or a module after `fully_shard`.
        optimizer: the one whose step uses the gradients; a wrapper that has it as `.optimizer` will do.
        micro_batches: of one step, over all ranks; the noise scale needs at least two.
        noise_every: measure every N steps; None: never.
        ranks: whether a step's gradient is the "sum" or the "mean" over ranks.
        is_last: whether the backward pass that ends now is its step's last.
        scheduler: of the learning rate, which is to move with every step.

    Attributes:
        num_examples: on this rank, of the pass that goes on.
        no_noise: why the noise scale is not measured; None if it is. Of FSDP2 it may come with the first step.

    Raises:
        ValueError: the optimizer has none of the model's parameters; later, if the scheduler stands still.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        *,
        micro_batches: int,
        noise_every: int | None,
        ranks: Any = None,
        is_last: Callable[[], bool] | None = None,
        scheduler: Any = None,
    ) -> None:
        self.optimizer = unwrapped(optimizer)
        check_parameters(model, self.optimizer)
        self.no_noise = None
        if noise_every is None:
            self.no_noise = "noise_every=None"
        elif micro_batches < 2:
            self.no_noise = (
                "the noise scale compares the micro-batches of a step, and a step has one: halve the per-device batch "
                "and accumulate 2"
            )
        self._sharded = any(hasattr(p, "placements") for p in model.parameters())
        self._model = model
        self.num_steps = 0
        self._hooks: list[Any] = []
        self._scheduler, self._turn = scheduler, None
        self._every, self._is_last = noise_every or 1, is_last
        self.num_examples = self._passes = self._fresh = 0
        self._queued = self._measured = False
        self._noise: GradientNoiseScale | None = None
        if self.no_noise is None:
            self._noise = GradientNoiseScale(model, every=None, window=100, ranks=ranks)
        if is_last is not None:
            self._hooks.append(model.register_forward_pre_hook(self._forward, with_kwargs=True))
            # FSDP2 computes with other tensors than its parameters: what the model returns tells of its backward pass.
            if self._sharded:
                self._hooks.append(model.register_forward_hook(self._returned))
            else:
                hooked = [p for p in model.parameters() if p.requires_grad]
                self._hooks += [p.register_hook(self._backward) for p in hooked]  # type: ignore[no-untyped-call]

    def saw(self, *inputs: Any) -> None:
        """Before a forward pass in training: the first tensor's first dimension is the number of examples."""
        if self._noise is not None and not self._passes and not self.num_examples and self.num_steps % self._every == 0:
            self._noise.measure()
            self._measured = True
        first = next(_tensors(inputs), None)
        self.num_examples += 0 if first is None else len(first)

    def backward_done(self) -> None:
        """After each backward pass."""
        if self._noise is not None and self._measured and self.num_examples:
            self._measure()
        self._passes += bool(self.num_examples)
        self.num_examples = 0

    def gradient_done(self) -> None:
        """Once the gradient of a step is whole, before it is clipped or used."""
        # The last step of an epoch may have too few micro-batches to say anything.
        parts = self._passes * (1 if self._sharded else _ranks())
        if self._noise is not None and self._measured and parts >= 2:
            self._noise.step()
            self._fresh += 1
        self._passes, self._measured = 0, False
        self.num_steps += 1
        if self._scheduler is not None and self.num_steps <= _STEPS_TO_MOVE:
            self._check_schedule()

    def numbers(self) -> dict[str, float]:
        """What there is to log now; one transfer from the device."""
        found: dict[str, float] = {}
        ratios = [each.ratio for each in getattr(self.optimizer, "trust_ratios", dict)().values()]
        # Exactly 1 is what layers have that are not adapted.
        known = torch.tensor([ratio for ratio in ratios if math.isfinite(ratio) and ratio != 1])
        if len(known):
            places = torch.tensor(list(_QUANTILES.values()))
            found = {
                f"trust_ratio/{name}": q for name, q in zip(_QUANTILES, known.quantile(places).tolist(), strict=True)
            }
        return found | self._noise_numbers()

    def remove(self) -> None:
        """Takes the hooks off the model."""
        for hook in self._hooks:
            hook.remove()
        if self._noise is not None:
            self._noise.remove()

    def _measure(self) -> None:
        assert self._noise is not None
        if self._sharded and all(p.grad is None for p in self._model.parameters()):
            self._noise.remove()
            self._noise = None
            self.no_noise = (
                "FSDP2 sums its micro-batches unseen before it shards the gradient: measuring needs "
                "sync_each_batch=True in the gradient accumulation"
            )
            _LOG.warning("anybatch: %s", self.no_noise)
        else:
            self._noise.micro_batch(self.num_examples)

    def _check_schedule(self) -> None:
        if self.num_steps == 1:
            self._turn = self._scheduler.state_dict().get("last_epoch")
        elif self.num_steps == _STEPS_TO_MOVE and self._turn == self._scheduler.state_dict().get("last_epoch", -1):
            raise ValueError(
                f"the scheduler has not moved in {_STEPS_TO_MOVE - 1} steps: warm-up and decay count steps, not "
                "epochs; call scheduler.step() after each optimizer.step()"
            )

    def _noise_numbers(self) -> dict[str, float]:
        try:
            squares, traces = self._noise.history() if self._noise is not None else ([], [])
        # Nothing was measured yet; or nothing that can be, of which the meter says why.
        except ValueError as error:
            if self._fresh and self.no_noise is None:
                self.no_noise = str(error)
                _LOG.warning("anybatch: %s", error)
            return {}
        fresh, self._fresh, found = min(self._fresh, len(squares)), 0, {}
        if fresh:
            found = {
                "noise/gradient_square": math.fsum(squares[-fresh:]) / fresh,
                "noise/trace": math.fsum(traces[-fresh:]) / fresh,
            }
        if len(squares) >= 3:
            scale = noise_scale(squares, traces)
            found |= {"noise/scale": scale.value, "noise/low": scale.low, "noise/high": scale.high}
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def _forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if module.training and torch.is_grad_enabled():
            self.saw(args, kwargs)

    def _returned(self, module: nn.Module, args: Any, output: Any) -> None:
        for tensor in _tensors((output,), scalars=True):
            if tensor.requires_grad:
                tensor.register_hook(self._backward)  # type: ignore[no-untyped-call]

    def _backward(self, _: Tensor) -> None:
        if not self._queued:
            self._queued = True
            # Two turns: DDP ends its all-reduce in a callback, too, which it queues with the last bucket.
            engine = torch.autograd.Variable._execution_engine
            engine.queue_callback(lambda: engine.queue_callback(self._pass_ends))

    def _pass_ends(self) -> None:
        self._queued = False
        assert self._is_last is not None
        self.backward_done()
        if self._is_last():
            self.gradient_done()


def _tensors(value: Any, scalars: bool = False) -> Iterator[Tensor]:
    """The tensors inside, in order; those of one dimension or more, or all."""
    if isinstance(value, Tensor):
        yield from [value] if value.ndim or scalars else []
    elif isinstance(value, Mapping | tuple | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(each, scalars)


def unwrapped(optimizer: Any) -> Optimizer:
    """The optimizer inside Accelerate's or Lightning's wrapper."""
    while not hasattr(optimizer, "trust_ratios") and isinstance(
        inner := getattr(optimizer, "optimizer", None), Optimizer
    ):
        optimizer = inner
    return optimizer  # type: ignore[no-any-return]


def check_parameters(model: nn.Module, optimizer: Optimizer) -> None:
    """Raises ValueError if the optimizer holds none of the model's parameters."""
    own = set(model.parameters())
    held = [p for group in optimizer.param_groups for p in group["params"]]
    if not own.intersection(held):
        raise ValueError(
            f"the optimizer holds {len(held)} parameters, none of them the model's: it was made before the model was "
            "wrapped, sharded or replaced; make it afterwards"
        )


def _ranks() -> int:
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
