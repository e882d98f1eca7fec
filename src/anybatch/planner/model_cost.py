"""The cost of one example in a model, counted in forward and backward pass on torch's meta device, without values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from anybatch.accelerators import Precision
from anybatch.engine.parallel import repeated_blocks

# BatchNorm needs two examples.
_EXAMPLES = 2
# The operations that torch.autocast computes in 16 bits on CUDA, and in fp32, as far as the package's models have
# them.
_IN_16_BITS = {F.linear, torch.addmm, torch.matmul, torch.bmm, F.conv2d, F.scaled_dot_product_attention}
_IN_32_BITS = {F.layer_norm, F.softmax, F.cross_entropy}
_DTYPES: Mapping[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}
_NO_LAUNCH = {"detach", "empty", "empty_like", "new_empty", "_unsafe_view", "lift_fresh"}
# Compiled or fused by hand, a model's elementwise work takes about as many kernels as its products. Gathering
# BatchNorm's statistics over the batch takes one more, forward and backward.
_LAUNCHES_A_PRODUCT = 2


@dataclass(frozen=True)
class ModelCost:
    """The cost of one example; but `launches` are those of a whole forward and backward pass.

    Args:
        flops: those of the forward and backward pass, two for a multiplication, without recomputation.
        activation_bytes: kept from the forward pass for the backward pass.
        checkpointed_bytes: the same if only the inputs of the repeated blocks are kept, and the insides of one.
        input_bytes: the bytes sent to the device.
        launches: the number of kernels.
    """

    flops: float
    activation_bytes: float
    checkpointed_bytes: float
    input_bytes: float
    launches: int

    def forward(self) -> "ModelCost":
        """Returns the cost of a forward pass by itself: a third."""
        return replace(self, flops=self.flops / 3, launches=self.launches // 3)


def model_cost(
    model: nn.Module, inputs: Callable[[int], dict[str, Tensor]], precision: Precision, *, fused: bool
) -> ModelCost:
    """Counts a training step of `model`, which is on the meta device, on `inputs(count)` examples.

    Attention is counted as by the kernels that store no scores: of a causal mask one half. `fused`: whether the model
    is compiled, or written with kernels by hand; otherwise each operation is a launch.
    """
    model.train()
    given = inputs(_EXAMPLES)
    kept = _Kept(model)
    products = FlopCounterMode(display=False, custom_mapping=_ATTENTION)
    launches = _Launches()
    with products, launches:
        with _Computing(_DTYPES.get(precision), kept), kept:
            losses, _ = model(**given)
        torch.stack([value.float() for value in losses.values()]).sum().backward()  # type: ignore[no-untyped-call]
    model.zero_grad(set_to_none=True)
    outside, inside = kept.outside(), kept.inside()
    return ModelCost(
        flops=products.get_total_flops() / _EXAMPLES,
        activation_bytes=(outside + sum(inside)) / _EXAMPLES,
        checkpointed_bytes=(outside + kept.block_inputs + max(inside, default=0)) / _EXAMPLES,
        input_bytes=sum(value.nbytes for value in given.values()) / _EXAMPLES,
        launches=_LAUNCHES_A_PRODUCT * launches.products + launches.batch_norms if fused else launches.all,
    )


class _Kept:
    """Storages that the forward pass in the block keeps for the backward pass, by the repeated block of the model."""

    def __init__(self, model: nn.Module) -> None:
        # Holds the storages, so that no two have one address.
        self._places: dict[int, tuple[torch.UntypedStorage, int | None]] = {}
        self.parameters = {p.untyped_storage()._cdata: p.untyped_storage() for p in model.parameters()}
        self._blocks = repeated_blocks(model) or [model]
        self._here: int | None = None
        self.block_inputs = 0
        self._hooks: list[Any] = [torch.autograd.graph.saved_tensors_hooks(self._keep, lambda value: value)]

    def __enter__(self) -> None:
        for number, block in enumerate(self._blocks):
            self._hooks.append(block.register_forward_pre_hook(partial(self._enter, number), with_kwargs=True))
            self._hooks.append(block.register_forward_hook(self._leave))
        self._hooks[0].__enter__()

    def __exit__(self, *error: object) -> None:
        self._hooks.pop(0).__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def _enter(self, number: int, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._here = number
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        self.block_inputs += sum(value.nbytes for value in given if value.requires_grad)

    def _leave(self, block: nn.Module, args: Any, output: Any) -> None:
        self._here = None

    def _keep(self, value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in self.parameters:
            self._places.setdefault(storage._cdata, (storage, self._here))
        return value

    def outside(self) -> int:
        """Returns the bytes outside all blocks."""
        return sum(storage.nbytes() for storage, place in self._places.values() if place is None)

    def inside(self) -> list[int]:
        """Returns the bytes of each block."""
        sums = [0] * len(self._blocks)
        for storage, place in self._places.values():
            if place is not None:
                sums[place] += storage.nbytes()
        return sums


class _Computing(TorchFunctionMode):
    """Computes as the engine does on a GPU: autocast's dtypes, attention that stores no scores, dropout with masks."""

    def __init__(self, dtype: torch.dtype | None, kept: _Kept) -> None:
        super().__init__()
        self._dtype, self._kept = dtype, kept
        self._cast: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # transformers' masks check whether nothing is padded, and no two sequences share a row.
        if func is Tensor.__bool__:
            return True
        if self._dtype is not None and func in _IN_16_BITS:
            args = tuple(map(self._lowered, args))
            kwargs = {name: self._lowered(value) for name, value in kwargs.items()}
        elif self._dtype is not None and func in _IN_32_BITS:
            args = tuple(value.float() if _is_float(value) else value for value in args)
        if func is F.scaled_dot_product_attention:
            causal = bool(kwargs.get("is_causal"))
            return torch.ops.aten._scaled_dot_product_flash_attention(*args[:3], 0.0, causal)[0]
        if func is F.dropout and (p := args[1] if len(args) > 1 else kwargs["p"]) > 0:
            return torch.native_dropout(args[0], p, True)[0]
        return func(*args, **kwargs)

    def _lowered(self, value: Any) -> Any:
        assert self._dtype is not None
        if not _is_float(value) or value.dtype == self._dtype:
            return value
        if not isinstance(value, nn.Parameter):
            return value.to(self._dtype)
        # Autocast makes one copy of a parameter for all examples.
        if id(value) not in self._cast:
            copy = value.to(self._dtype)
            self._cast[id(value)] = copy
            self._kept.parameters[copy.untyped_storage()._cdata] = copy.untyped_storage()
        return self._cast[id(value)]


def _is_float(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


class _Launches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations that compute something; a convolution's backward pass is two."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.all = self.products = self.batch_norms = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        packet = func.overloadpacket
        if not func.is_view and packet.__name__ not in _NO_LAUNCH:
            number = 2 if packet is torch.ops.aten.convolution_backward else 1
            self.all += number
            self.products += number if packet in flop_registry else 0
            self.batch_norms += int("batch_norm" in packet.__name__)
        return func(*args, **(kwargs or {}))


def _attention_flops(q: Any, k: Any, v: Any, dropout_p: float = 0.0, causal: bool = False, **_: object) -> int:
    """Returns the FLOPs of the forward pass, on [batch, heads, queries, size]."""
    batch, heads, queries, size = q
    whole: int = 2 * batch * heads * queries * k[2] * (size + v[3])
    return whole // 2 if causal else whole


def _attention_backward_flops(gradient: Any, q: Any, k: Any, v: Any, *args: Any, **_: object) -> int:
    # out, logsumexp, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p, is_causal, ...; that the scores are computed again
    # does not count.
    return 2 * _attention_flops(q, k, v, causal=bool(args[7]))


_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_backward: _attention_backward_flops,
}
