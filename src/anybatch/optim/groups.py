"""Model -> parameter groups: which parameters are decayed and which are adapted."""

import re
from typing import Any

from torch import nn

# All base classes of a module count; third-party norms (T5LayerNorm, LlamaRMSNorm, ...) are found by name.
_NORMALIZATION = re.compile(r"(Layer|Batch|Group|Instance|RMS)Norm(\dd)?$")
_BIAS = re.compile(r"(^|_)bias$|^bias_")


def param_groups(model: nn.Module, weight_decay: float = 0.01, adapt_excluded: bool = False) -> list[dict[str, Any]]:
    """Returns the model's trainable parameters by name: a group that is decayed and adapted, and one not decayed.

    Biases, all parameters of normalization modules, and every parameter of fewer than two dimensions are excluded from
    decay. A shared parameter appears once, under its first name; a frozen parameter does not appear.

    Args:
        model: the module; wrap it (DDP) before or after, the parameters are the same.
        weight_decay: the first group's, at least 0.
        adapt_excluded: whether the excluded parameters have trust ratios. False, as in the authors' BERT code, gives
            them ratio 1; True is exactly Algorithm 2.

    Returns:
        Groups for any `torch.optim.Optimizer`: "params" as (name, parameter) pairs, "weight_decay", "adapt".

    Raises:
        ValueError: weight_decay is negative, or nothing in the model is trainable.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
        >>> for group in param_groups(model):
        ...     print([name for name, _ in group["params"]], group["weight_decay"], group["adapt"])
        ['0.weight'] 0.01 True
        ['0.bias', '1.weight', '1.bias'] 0.0 False
    """
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay={weight_decay} is not at least 0")
    decayed: list[tuple[str, nn.Parameter]] = []
    excluded: list[tuple[str, nn.Parameter]] = []
    seen: set[nn.Parameter] = set()
    for prefix, module in model.named_modules():
        normalizes = any(_NORMALIZATION.search(kind.__name__) for kind in type(module).__mro__)
        for leaf, p in module.named_parameters(recurse=False):
            if p in seen or not p.requires_grad:
                continue
            seen.add(p)
            exempt = normalizes or p.ndim < 2 or _BIAS.search(leaf)
            (excluded if exempt else decayed).append((f"{prefix}.{leaf}" if prefix else leaf, p))
    if not seen:
        raise ValueError("model has no trainable parameter")
    groups = [
        {"params": decayed, "weight_decay": weight_decay, "adapt": True},
        {"params": excluded, "weight_decay": 0.0, "adapt": adapt_excluded},
    ]
    return [group for group in groups if group["params"]]
