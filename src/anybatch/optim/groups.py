"""Model -> parameter groups: what is decayed and what is adapted."""

import re
from typing import Any

from torch import nn

# Any class of a module's ancestry counts, and third-party norms (T5LayerNorm, LlamaRMSNorm, ...) are found by name.
_NORMALISATION = re.compile(r"(Layer|Batch|Group|Instance|RMS)Norm(\dd)?$")
_BIAS = re.compile(r"(^|_)bias$|^bias_")


def param_groups(model: nn.Module, weight_decay: float = 0.01, adapt_excluded: bool = False) -> list[dict[str, Any]]:
    """The model's trainable parameters by name, in a group that is decayed and adapted and one that is not decayed.

    Excluded from decay are biases, all parameters of normalisation modules, and every parameter of fewer than two
    dimensions. A shared parameter appears once, under its first name, and a frozen one not at all.

    Args:
        model: the module; wrap it (DDP) before or after, the parameters are the same.
        weight_decay: of the first group, at least 0.
        adapt_excluded: whether the excluded parameters have a trust ratio of their own. False, as in the authors' BERT
            code, gives them ratio 1; True is Algorithm 2 to the letter.

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
        normalises = any(_NORMALISATION.search(kind.__name__) for kind in type(module).__mro__)
        for leaf, p in module.named_parameters(recurse=False):
            if p in seen or not p.requires_grad:
                continue
            seen.add(p)
            exempt = normalises or p.ndim < 2 or _BIAS.search(leaf)
            (excluded if exempt else decayed).append((f"{prefix}.{leaf}" if prefix else leaf, p))
    if not seen:
        raise ValueError("model has no trainable parameter")
    groups = [
        {"params": decayed, "weight_decay": weight_decay, "adapt": True},
        {"params": excluded, "weight_decay": 0.0, "adapt": adapt_excluded},
    ]
    return [group for group in groups if group["params"]]
