"""Trust ratios and the gradient noise scale of other people's loops, as names and numbers to log."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from anybatch.integrations.checks import Batch, Moves, check_noise_every, check_parameters, unwrapped
from anybatch.scaling import GradientNoiseScale, noise_scale

_LOG = logging.getLogger(__name__)
_WINDOW = 100
_QUANTILES = {"min": 0.0, "p10": 0.1, "p50": 0.5, "p90": 0.9, "max": 1.0}


class Watch:
    """Follows forward and backward passes by hooks; `numbers()` returns the measurements.

        global_batch_size                     examples of a step
        settings/...                          as given, once
        trust_ratio/min, p10, p50, p90, max   of the last step, over the layers that are adapted
        noise/gradient_square, noise/trace    |G|^2 and tr(Sigma), means over the steps measured since the last call
        noise/scale, noise/low, noise/high    their ratio over the last 100 measured steps, in examples, and its 95 %
                                              interval; left out while unknown or unbounded

    The loop's integration calls `saw` with the inputs of a forward pass, `backward_done` after each backward pass, and
    `gradient_done` when a step's gradient is summed, before it is clipped or used. Or it gives `is_last`, and the
    watch sees all of this by hooks.

    Args:
        model: the model that is trained: a module, DDP's wrapper, or a module after `fully_shard`.
        optimizer: the one whose step uses the gradients, or a wrapper that has it as `.optimizer`.
        accumulation: micro-batches of a step on this rank; the noise scale needs two, over all ranks.
        noise_every: measure every N steps; None: never.
        replicas: the number of ranks that see different examples.
        batch_size: the global batch; None: the first pass's, times accumulation and replicas.
        micro_batch_size: the given size of a forward pass, to check; None: not checked.
        settings: settings to log once.
        is_last: whether the backward pass that ends now is its step's last.
        scheduler: the learning rate's; a LambdaLR must move with every step.
        turns: steps of the scheduler for one step of the optimizer.

    Attributes:
        num_examples: the examples of the current pass on this rank.
        no_noise: why the noise scale is not measured; None if it is. For FSDP2 it may be known only after the first
            step.

    Raises:
        ValueError: noise_every is below 1; the optimizer has none of the model's parameters; later, if passes have
            another size than given, or the scheduler does not move with the steps.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        *,
        accumulation: int,
        noise_every: int | None,
        replicas: int = 1,
        batch_size: int | None = None,
        micro_batch_size: int | None = None,
        settings: Mapping[str, float] | None = None,
        is_last: Callable[[], bool] | None = None,
        scheduler: Any = None,
        turns: int = 1,
    ) -> None:
        check_noise_every(noise_every)
        self.optimizer = unwrapped(optimizer)
        check_parameters(model, self.optimizer)
        self._sharded = any(hasattr(p, "placements") for p in model.parameters())
        self.no_noise = None
        if noise_every is None:
            self.no_noise = "noise_every=None"
        elif accumulation * (1 if self._sharded else replicas) < 2:
            self.no_noise = (
                "the noise scale compares the micro-batches of a step, and a step has one: halve the per-device batch "
                "and accumulate 2"
            )
        self._model = model
        self._batch = Batch(batch_size, micro_batch_size, accumulation * replicas)
        self._moves = Moves(scheduler, self.optimizer, turns)
        self._settings = dict(settings or {})
        self._every, self._is_last = noise_every or 1, is_last
        self.num_steps = self.num_examples = self._passes = self._fresh = 0
        self._queued = self._measured = False
        self._noise: GradientNoiseScale | None = None
        self._earlier: tuple[list[float], list[float]] = ([], [])
        self._hooks: list[Any] = [*self._moves.hooks]
        if self.no_noise is None:
            self._noise = GradientNoiseScale(model, every=None, window=_WINDOW, ranks="sum" if self._sharded else None)
        if is_last is not None:
            self._hooks.append(model.register_forward_pre_hook(self._forward, with_kwargs=True))
            # FSDP2 computes with other tensors than its parameters: the model's output shows its backward pass.
            if self._sharded:
                self._hooks.append(model.register_forward_hook(self._returned))
            else:
                hooked = [p for p in model.parameters() if p.requires_grad]
                self._hooks += [p.register_hook(self._backward) for p in hooked]  # type: ignore[no-untyped-call]

    def saw(self, *inputs: Any) -> None:
        """Records the inputs of a forward pass in training; the first tensor's first dimension counts the examples."""
        if self._noise is not None and not self._passes and not self.num_examples and self.num_steps % self._every == 0:
            self._noise.measure()
            self._measured = True
        sizes = [len(tensor) for tensor in _tensors(inputs)]
        self.num_examples += sizes[0] if sizes else 0
        self._batch.saw(sizes)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state for a checkpoint: only numbers and lists of them."""
        squares, traces = self._history()
        return {"num_steps": self.num_steps, "global_batch_size": self._batch.size, "noise": [squares, traces]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a checkpoint's steps and noise; ValueError if it was made at another batch."""
        squares, traces = state["noise"]
        self._batch.resumed(state["global_batch_size"])
        self.num_steps, self._earlier = state["num_steps"], (list(squares), list(traces))
        self._moves.restart()

    def backward_done(self) -> None:
        """Records a backward pass; call it after each."""
        if self._noise is not None and self._measured and self.num_examples:
            self._measure()
        self._passes += bool(self.num_examples)
        self.num_examples = 0

    def gradient_done(self) -> None:
        """Records a step's gradient; call it when the gradient is complete, before it is clipped or used."""
        # The last step of an epoch may have too few micro-batches for a measurement.
        parts = self._passes * (1 if self._sharded else _ranks())
        if self._noise is not None and self._measured and parts >= 2:
            self._noise.step()
            self._fresh += 1
        self._passes, self._measured = 0, False
        self.num_steps += 1
        self._moves.check()

    def numbers(self) -> dict[str, float]:
        """Returns what to log now; one transfer from the device."""
        found: dict[str, float] = {}
        ratios = [each.ratio for each in getattr(self.optimizer, "trust_ratios", dict)().values()]
        # Layers that are not adapted have exactly 1.
        known = torch.tensor([ratio for ratio in ratios if math.isfinite(ratio) and ratio != 1])
        if len(known):
            places = torch.tensor(list(_QUANTILES.values()))
            found = {
                f"trust_ratio/{name}": q for name, q in zip(_QUANTILES, known.quantile(places).tolist(), strict=True)
            }
        return self.unlogged() | found | self._noise_numbers()

    def unlogged(self) -> dict[str, float]:
        """Returns the global batch, and the settings unless they were logged."""
        settings, self._settings = self._settings, {}
        return settings | ({"global_batch_size": float(self._batch.size)} if self._batch.size else {})

    def remove(self) -> None:
        """Removes the hooks from the model and the optimizer."""
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

    def _history(self) -> tuple[list[float], list[float]]:
        """Returns |G|^2 and tr(Sigma) of the last measured steps, including those before a resumption."""
        try:
            squares, traces = self._noise.history() if self._noise is not None else ([], [])
        # Nothing was measured yet; or nothing can be measured, and the meter has the reason.
        except ValueError as error:
            squares, traces = [], []
            if self._fresh and self.no_noise is None:
                self.no_noise = str(error)
                _LOG.warning("anybatch: %s", error)
        return (self._earlier[0] + squares)[-_WINDOW:], (self._earlier[1] + traces)[-_WINDOW:]

    def _noise_numbers(self) -> dict[str, float]:
        squares, traces = self._history()
        fresh, self._fresh, found = min(self._fresh, len(squares)), 0, {}
        if self.no_noise is not None:
            return {}
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
            # Two turns: DDP also ends its all-reduce in a callback, which it queues with the last bucket.
            engine = torch.autograd.Variable._execution_engine
            engine.queue_callback(lambda: engine.queue_callback(self._pass_ends))

    def _pass_ends(self) -> None:
        self._queued = False
        assert self._is_last is not None
        self.backward_done()
        if self._is_last():
            self.gradient_done()


def _tensors(value: Any, scalars: bool = False) -> Iterator[Tensor]:
    """Yields the tensors inside, in order; those of one dimension or more, or all."""
    if isinstance(value, Tensor):
        yield from [value] if value.ndim or scalars else []
    elif isinstance(value, Mapping | tuple | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(each, scalars)


def _ranks() -> int:
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
