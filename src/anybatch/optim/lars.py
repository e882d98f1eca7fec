"""LARS: Algorithm 1 of the paper, and the two older forms that others use."""

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from anybatch.optim.checks import at_least, fraction, one_of
from anybatch.optim.gate import Nonfinite
from anybatch.optim.native import NativeOptimizer
from anybatch.optim.norms import Norm
from anybatch.optim.parts import Part, computed_in
from anybatch.optim.strategy import trust_ratios

Form = Literal["lamb-paper", "lars-2017", "lr-outside"]


class LARS(NativeOptimizer):
    """LARS: a momentum step, rescaled layer by layer to the layer's own norm.

        d = g + wd x        q = tc * phi(|x|) / (|u| + eps)

        form="lamb-paper"   m <- mu m + (1-mu) d         x <- x - lr * q * m       |u| = |m|: Algorithm 1
        form="lars-2017"    m <- mu m + lr * q * d       x <- x - m                |u| = |g| + wd |x|, or
        form="lr-outside"   m <- mu m + q * d            x <- x - lr * m           |u| = |d| with joint_norm

        nesterov            x moves along mu m + (...) d, with the new m, in place of m

    The last two differ as soon as lr changes; timm's is the last. |.| is taken over the whole layer: over all shards
    of a DTensor, and one block at a time if a group sets `blocks`.

    Args:
        params: parameters, (name, parameter) pairs, or groups of either, as `param_groups` makes them. A group may
            override arguments, and may set `adapt` (False: q = 1) and `blocks`, as in `LAMB`.
        lr: relative step: under Algorithm 1 an adapted layer moves by lr * tc * phi(|x|). A 0-d tensor is allowed.
            Needed unless every group has one.
        momentum: mu, in [0, 1).
        weight_decay: wd, at least 0.
        form: see above.
        trust_coefficient: tc, at least 0; 0.001 is usual for the last two forms.
        joint_norm: see above; not for Algorithm 1, which has one norm.
        eps: at least 0.
        nesterov: see above.
        norm, phi, trust_clip, max_grad_norm, nonfinite, process_group: as in `LAMB`.
        maximize, foreach, fused, capturable, master_weights: as in `LAMB`.

    State:
        momentum_buffer: like x, but fp32 if x is bf16; master.

    Guarantees:
        p.grad is never written. If p.grad is None, the parameter is skipped. |x| = 0 or |u| = 0 gives q = 1. If |u| =
        |g| + wd |x|, |g| = 0 also gives q = 1, as in the authors' code and in timm.

    Raises:
        ValueError: naming the argument, its value and its bound.
        TypeError: parameters or gradients are complex or sparse, or parameters are the flat ones of FSDP1 or ZeRO.

    Source: You et al. 2020, arXiv 1904.00962, Algorithm 1; You, Gitman, Ginsburg 2017, arXiv 1708.03888; timm `Lars`.

    Example:
        >>> layer = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> opt = LARS([layer], lr=0.1)
        >>> layer.grad = torch.tensor([7.0, 0.0])
        >>> opt.step()
        >>> layer.data
        tensor([2.5000, 4.0000])
    """

    _state_names = ("momentum_buffer",)

    def __init__(
        self,
        params: Any,
        lr: float | Tensor | None = None,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        *,
        form: Form = "lamb-paper",
        trust_coefficient: float = 1.0,
        joint_norm: bool = False,
        eps: float = 0.0,
        nesterov: bool = False,
        norm: Norm = "l2",
        phi: tuple[float, float] = (0.0, math.inf),
        trust_clip: tuple[float, float] = (0.0, math.inf),
        max_grad_norm: float | None = None,
        nonfinite: Nonfinite = "propagate",
        process_group: Any = None,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        master_weights: bool = False,
    ) -> None:
        super().__init__(params, locals())

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        fraction("momentum", group["momentum"])
        for name in ("weight_decay", "trust_coefficient", "eps"):
            at_least(group, name, 0)
        one_of("form", group["form"], ("lamb-paper", "lars-2017", "lr-outside"))
        if group["joint_norm"] and group["form"] == "lamb-paper":
            raise ValueError(
                "joint_norm=True has no meaning with form='lamb-paper', whose ratio has the norm of m alone"
            )

    def _new_state(self, group: dict[str, Any], p: Tensor) -> dict[str, Tensor]:
        return {"momentum_buffer": torch.zeros_like(p, dtype=computed_in(p.dtype))}

    def _update(self, part: Part, clip: Tensor | None) -> None:
        group, grads = part.group, part.scaled_grads(clip)
        if group["form"] != "lamb-paper" and not group["joint_norm"]:
            part.updates = list(grads)
            return
        part.updates = lars_direction(part, grads)
        if group["form"] == "lamb-paper":
            part.updates = lars_average(part, part.updates, self._local_state(part, "momentum_buffer"))

    def _ratios(
        self, group: dict[str, Any], weight_norms: Tensor, update_norms: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        bounds = {"phi": group["phi"], "trust_clip": group["trust_clip"]}
        if group["form"] != "lamb-paper" and not group["joint_norm"]:
            # As in NVCaffe (the authors' code), TensorFlow and timm, a layer without gradient has no learning rate of
            # its own.
            still = update_norms == 0
            update_norms = torch.where(still, 0.0, update_norms + group["weight_decay"] * weight_norms)
        return update_norms, *trust_ratios(
            weight_norms, update_norms, coefficient=group["trust_coefficient"], eps=group["eps"], **bounds
        )

    def _apply(self, part: Part, ratios: Tensor) -> None:
        group = part.group
        if group["form"] == "lamb-paper":
            super()._apply(part, ratios)
            return
        directions, ones = part.updates, torch.ones_like(ratios)
        if not group["joint_norm"]:
            directions = lars_direction(part, part.updates)
        inside, outside = (ratios * group["lr"], ones) if group["form"] == "lars-2017" else (ratios, ones * group["lr"])
        sums = self._local_state(part, "momentum_buffer")
        xs, ds, ms = (part.by_layer(tensors) for tensors in (part.weights, directions, sums))
        lars_move(part, xs, ds, ms, part.rates(inside), part.rates(outside))


def lars_direction(part: Part, grads: Iterable[Tensor]) -> list[Tensor]:
    """Returns d = g + wd x of every tensor."""
    weight_decay = part.group["weight_decay"]
    if part.foreach:
        return list(torch._foreach_add(list(grads), part.weights, alpha=weight_decay))
    return [g.add(x, alpha=weight_decay) for x, g in zip(part.weights, grads, strict=True)]


def lars_average(part: Part, directions: list[Tensor], averages: list[Tensor]) -> list[Tensor]:
    """m <- mu m + (1-mu) d in place; returns u: m, or its look-ahead mu m + (1-mu) d, which overwrites d."""
    momentum, nesterov = part.group["momentum"], part.group["nesterov"]
    if part.foreach:
        torch._foreach_lerp_(averages, directions, 1 - momentum)
        if nesterov:
            torch._foreach_lerp_(directions, averages, momentum)
    else:
        for d, m in zip(directions, averages, strict=True):
            m.lerp_(d, 1 - momentum)
            if nesterov:
                d.lerp_(m, momentum)
    return directions if nesterov else averages


def lars_move(
    part: Part,
    weights: list[Tensor],
    directions: list[Tensor],
    sums: list[Tensor],
    inside: list[Tensor],
    outside: list[Tensor],
) -> None:
    """m <- mu m + inside * d; x <- x - outside * m, or its look-ahead mu m + inside * d, which overwrites d."""
    momentum, nesterov = part.group["momentum"], part.group["nesterov"]
    if part.foreach and weights:  # a shard may hold no row of any layer
        torch._foreach_mul_(sums, momentum)
        torch._foreach_addcmul_(sums, directions, inside)
        if nesterov:
            torch._foreach_mul_(directions, inside)
            torch._foreach_add_(directions, sums, alpha=momentum)
        torch._foreach_addcmul_(weights, directions if nesterov else sums, outside, -1)
        return
    for x, d, m, q, eta in zip(weights, directions, sums, inside, outside, strict=True):
        m.mul_(momentum).addcmul_(d, q)
        u = d.mul_(q).add_(m, alpha=momentum) if nesterov else m
        x.addcmul_(u, eta, value=-1)
