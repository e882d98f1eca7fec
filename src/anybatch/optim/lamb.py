"""LAMB: Algorithm 2 of the paper."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from anybatch.optim.checks import at_least, fraction, one_of, pair
from anybatch.optim.gate import Nonfinite
from anybatch.optim.native import NativeOptimizer
from anybatch.optim.norms import Norm, accumulator, has_numbers
from anybatch.optim.parts import Part, computed_in

Nesterov = Literal["m", "mv"]


class LAMB(NativeOptimizer):
    """LAMB: an Adam step, rescaled layer by layer to the layer's own norm.

        m <- b1 m + (1-b1) g        m_hat = m / (1-b1^t)        u = m_hat / (sqrt(v_hat) + eps) + wd x
        v <- b2 v + (1-b2) g*g      v_hat = v / (1-b2^t)        x <- x - lr * phi(|x|)/|u| * u

        nesterov="m"    m_hat = b1 m / (1-b1^(t+1)) + (1-b1) g / (1-b1^t)          N-LAMB
        nesterov="mv"   and v_hat = b2 v / (1-b2^(t+1)) + (1-b2) g*g / (1-b2^t)    NN-LAMB
        bias_correction=False   every denominator 1-b^t is 1

    |.| is taken over the whole layer: over all shards of a DTensor, as `fully_shard` and tensor parallelism make them;
    and one block at a time if a group sets `blocks`. phi clamps |x|.

    Args:
        params: parameters, (name, parameter) pairs, or groups of either, as `param_groups` makes them. A group may
            override every argument except max_grad_norm, nonfinite and process_group. It may set `adapt` (False: ratio
            1, at any weight decay) and `blocks` (the number of equal slices along dimension 0 that are separate
            layers: 3 for a fused QKV).
        lr: relative step; an adapted layer moves by lr * phi(|x|). A 0-d tensor is allowed.
        betas: (b1, b2), each in [0, 1).
        eps: added to sqrt(v_hat), at least 0.
        weight_decay: wd, at least 0; inside u, and so inside the ratio.
        bias_correction: divide the moments by 1-b^t; without it, the first steps are warm-up.
        nesterov: look-ahead in no moment, the first, or both.
        norm: |.| is "l2", "l1" or "linf".
        phi: bounds of |x|.
        trust_clip: bounds of the ratio.
        max_grad_norm: clips g so that the norm over all gradients of all groups is at most this; p.grad is not
            changed.
        nonfinite: what a NaN or infinite gradient does. "propagate": it spoils only its layer; costs nothing. "skip":
            the step is skipped. "raise": an error. The last two read all gradients first, and wait for the device.
        process_group: ranks that own different parameters (ZeroRedundancyOptimizer); they agree on the clip norm and
            on whether to skip, and reduce nothing else.
        maximize: ascend.
        foreach: many tensors in one kernel; None: on CUDA.
        fused: both phases of all tensors in one kernel (on a CPU) or two (on CUDA, in Triton), for fp32 and bf16
            parameters, on CUDA also fp16, with the l2 norm. None: on a CPU, if the kernel can do it, unless parameters
            are sharded, or foreach or capturable is set. True: an error on every rank if it cannot. False: never.
        capturable: the step count is on the device, and nothing waits for it.
        master_weights: keep an fp32 `master` of bf16 and fp16 parameters in the state. Without it, a step is also
            computed in fp32, but the parameter loses what rounding takes.

    State:
        exp_avg, exp_avg_sq: like x, but fp32 if x is bf16; step: 0-d fp32; master.

    Guarantees:
        p.grad is never written. If p.grad is None, the parameter is skipped. |x| = 0 or |u| = 0 gives ratio 1.

    Raises:
        ValueError: naming the argument, its value and its bound.
        TypeError: parameters or gradients are complex or sparse, or parameters are the flat ones of FSDP1 or ZeRO.

    Source: You et al. 2020, arXiv 1904.00962, Algorithm 2 and appendix (N-LAMB, NN-LAMB; after Dozat 2016).

    Example:
        >>> layer = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> opt = LAMB([("layer", layer)], lr=0.1)
        >>> layer.grad = torch.tensor([1.0, 0.0])
        >>> opt.step()
        >>> round((layer - torch.tensor([3.0, 4.0])).norm().item(), 6)      # 0.1 * |x|
        0.5
        >>> opt.trust_ratios()["layer"].weight_norm
        5.0
    """

    _state_names = ("step", "exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        *,
        bias_correction: bool = True,
        nesterov: Nesterov | None = None,
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
        for i, beta in enumerate(pair(group, "betas")):
            fraction(f"betas[{i}]", beta)
        at_least(group, "eps", 0)
        at_least(group, "weight_decay", 0)
        one_of("nesterov", group["nesterov"], (None, "m", "mv"))

    def _new_state(self, group: dict[str, Any], p: Tensor) -> dict[str, Tensor]:
        moments = {name: torch.zeros_like(p, dtype=computed_in(p.dtype)) for name in ("exp_avg", "exp_avg_sq")}
        device = p.device if group["capturable"] else torch.device("cpu")
        return {"step": torch.zeros((), dtype=torch.float32, device=device), **moments}

    def _update(self, part: Part, clip: Tensor | None) -> None:
        states = [self._local_state(part, name) for name in ("exp_avg", "exp_avg_sq", "step")]
        update = _multi_tensor_lamb if part.foreach else _single_tensor_lamb
        part.updates = update(part.group, part.weights, part.scaled_grads(clip), *states)


def _single_tensor_lamb(
    group: Mapping[str, Any],
    weights: list[Tensor],
    grads: Iterable[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
) -> list[Tensor]:
    """Advances step and both moments in place; returns u = m_hat / (sqrt(v_hat) + eps) + wd x of every tensor."""
    (beta1, beta2), nesterov, corrects = group["betas"], group["nesterov"], group["bias_correction"]
    updates = []
    for x, g, m, v, step in zip(weights, grads, exp_avgs, exp_avg_sqs, steps, strict=True):
        step += 1
        t = _clock(step, group["capturable"])
        m.lerp_(g, 1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        of_m, of_g = _look_ahead(beta1, t, corrects, nesterov is not None)
        of_v, of_gg = _look_ahead(beta2, t, corrects, nesterov == "mv")
        m_hat = m * of_m
        if nesterov is not None:
            m_hat.add_(g * of_g)
        v_hat = v * of_v
        if nesterov == "mv":
            v_hat.add_((g * g).mul_(of_gg))
        u = m_hat.div_(v_hat.sqrt_().add_(group["eps"]))
        updates.append(u.add_(x, alpha=group["weight_decay"]) if group["weight_decay"] else u)
    return updates


def _multi_tensor_lamb(
    group: Mapping[str, Any],
    weights: list[Tensor],
    grads: Iterable[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
) -> list[Tensor]:
    (beta1, beta2), nesterov, corrects = group["betas"], group["nesterov"], group["bias_correction"]
    grads = list(grads)
    torch._foreach_add_(steps, 1)
    clocks = [_clock(step, group["capturable"]) for step in steps]
    torch._foreach_lerp_(exp_avgs, grads, 1 - beta1)
    torch._foreach_mul_(exp_avg_sqs, beta2)
    torch._foreach_addcmul_(exp_avg_sqs, grads, grads, 1 - beta2)
    of_m, of_g = zip(*(_look_ahead(beta1, t, corrects, nesterov is not None) for t in clocks), strict=True)
    of_v, of_gg = zip(*(_look_ahead(beta2, t, corrects, nesterov == "mv") for t in clocks), strict=True)
    updates = torch._foreach_mul(exp_avgs, of_m)
    if nesterov is not None:
        torch._foreach_add_(updates, torch._foreach_mul(grads, of_g))
    denominators = torch._foreach_mul(exp_avg_sqs, of_v)
    if nesterov == "mv":
        torch._foreach_add_(denominators, torch._foreach_mul(torch._foreach_mul(grads, grads), of_gg))
    torch._foreach_sqrt_(denominators)
    torch._foreach_add_(denominators, group["eps"])
    torch._foreach_div_(updates, denominators)
    if group["weight_decay"]:
        torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
    return list(updates)


def _clock(step: Tensor, capturable: bool) -> Any:
    """Returns t as a number; for capturable as a float64 tensor, since 1 - 0.999^t needs the digits."""
    return step.to(accumulator(step.device)) if capturable or not has_numbers(step) else step.item()


def _look_ahead(beta: float, t: Any, corrects: bool, nesterov: bool) -> tuple[Any, Any]:
    """Returns (a, b) of the estimate a * moment + b * gradient."""
    now, then = (1 - beta**t, 1 - beta ** (t + 1)) if corrects else (1.0, 1.0)
    return (beta / then, (1 - beta) / now) if nesterov else (1 / now, 0.0)
