"""From norms to trust ratios, for all layers at once."""

from typing import NamedTuple

import torch
from torch import Tensor


class TrustRatio(NamedTuple):
    """The last step of one layer: it moved by lr * ratio * update."""

    weight_norm: float
    update_norm: float
    ratio: float
    clamped: bool


def trust_ratios(
    weight_norms: Tensor,
    update_norms: Tensor,
    *,
    phi: tuple[float, float],
    trust_clip: tuple[float, float],
    coefficient: float = 1.0,
    eps: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """ratio = clip(coefficient * phi(|x|) / (|u| + eps)); 1 if |x| = 0 or |u| = 0.

    Args:
        weight_norms, update_norms: |x| and |u|, shape (layers,).
        phi, trust_clip: lower and upper bound of |x| and of the ratio.

    Returns:
        The ratios, and whether a bound acted; both of shape (layers,).
    """
    raw = coefficient * weight_norms.clamp(*phi) / (update_norms + eps)
    still = (weight_norms == 0) | (update_norms == 0)
    outside = (weight_norms < phi[0]) | (weight_norms > phi[1]) | (raw < trust_clip[0]) | (raw > trust_clip[1])
    return torch.where(still, 1.0, raw.clamp(*trust_clip)), outside & ~still
