"""Reads all gradients before a step: the clip coefficient, and whether they are finite."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from anybatch.optim.norms import Layers, accumulator, has_numbers, measure
from anybatch.optim.parts import Part

Nonfinite = Literal["propagate", "skip", "raise"]


class Verdict(NamedTuple):
    """`finite` holds for all ranks, `nonfinite` has this rank's indices; `clip` is None if nothing is clipped."""

    finite: bool
    nonfinite: list[int]
    clip: Tensor | None


def look(
    parts: Sequence[Part],
    device: torch.device,
    *,
    max_grad_norm: float | None,
    nonfinite: Nonfinite,
    process_group: Any = None,
    glance: tuple[Tensor, Tensor] | None = None,
) -> Verdict:
    """Reads every gradient once if clipping or the policy needs it; transfers two numbers if the policy needs them.

        clip = max_grad_norm / max(|g|, max_grad_norm)      |g| over all gradients of all ranks

    Args:
        parts: the parts whose gradients are read; those of a mesh are measured over all their shards, in one
            all-reduce.
        device: the device on which the norms are collected.
        process_group: ranks that own different parameters; each rank must call, even without gradients.
        glance: what a fused kernel has already read: |g|^2 of every parameter; for the finite ones their sum, the
            number of the others, and clip.

    Under "propagate" a gradient that is not finite counts as 0 in |g|, so it harms no other layer.
    """
    if max_grad_norm is None and nonfinite == "propagate":
        return Verdict(True, [], None)
    if glance is not None:
        squares, (_, bad, clip) = glance
        if nonfinite != "propagate" and has_numbers(bad) and bad.item():
            return Verdict(False, squares.isfinite().logical_not().nonzero().flatten().tolist(), None)
        return Verdict(True, [], None if max_grad_norm is None else clip)
    gradients = [Layers(part.grads, [each.undivided() for each in part.layouts], "l2", part.mesh) for part in parts]
    several = [norms.to(device) for norms in measure(gradients)]
    norms = torch.cat([torch.zeros(0, dtype=accumulator(device), device=device), *several])
    good = norms.isfinite()
    total = torch.stack([norms.where(good, 0.0).square().sum(), (~good).sum().to(norms.dtype)])
    if process_group is not None:
        dist.all_reduce(total, group=process_group)
    if nonfinite != "propagate" and has_numbers(total) and total[1].item():
        return Verdict(False, [i for i, ok in enumerate(good.tolist()) if not ok], None)
    return Verdict(
        True, [], None if max_grad_norm is None else max_grad_norm / total[0].sqrt().clamp(min=max_grad_norm)
    )
