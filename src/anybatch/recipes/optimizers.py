"""The optimizers that a recipe can name, each one row: built from parameter groups, a rate and its own options."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from anybatch.errors import InputError
from anybatch.optim import LAMB, LARS, param_groups
from anybatch.recipes.recipe import OptimizerSettings

# Defaults that differ from torch's are the paper's and its baselines'.
OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    "lamb": (LAMB, {}),
    "lars": (LARS, {}),
    "adamw": (torch.optim.AdamW, {"eps": 1e-6}),
    "adam": (torch.optim.Adam, {"eps": 1e-6}),
    "adagrad": (torch.optim.Adagrad, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
}


def build_optimizer(model: nn.Module, settings: OptimizerSettings, lr: float) -> torch.optim.Optimizer:
    """The optimizer named in `settings` over the parameters of `model`; the rate of each step is set by the engine.

    Raises:
        InputError: an unknown name, or an option that the optimizer does not take.
    """
    if settings.name not in OPTIMIZERS:
        raise InputError(f"optimizer.name = {settings.name!r}: must be one of {', '.join(OPTIMIZERS)}")
    if taken := {"params", "lr", "weight_decay"} & settings.options.keys():
        raise InputError(f"optimizer.options.{min(taken)}: set optimizer.{min(taken)} instead")
    if settings.blocks and settings.name not in ("lamb", "lars"):
        raise InputError(f"optimizer.blocks: {settings.name} has no layers to cut; only lamb and lars have")
    constructor, defaults = OPTIMIZERS[settings.name]
    groups = param_groups(model, weight_decay=settings.weight_decay, adapt_excluded=settings.adapt_excluded)
    if settings.decay_biases:
        groups = _with_biases(model, groups)
    groups = _with_blocks(groups, settings.blocks)
    try:
        return constructor(groups, lr=lr, **{**defaults, **settings.options})
    # The options are the optimizer's own to judge, and it may refuse them in any way.
    except Exception as error:
        raise InputError(f"optimizer {settings.name}, options {settings.options}: {error}") from None


def _with_biases(model: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`groups` with the biases of convolutions and linear layers among what is decayed and adapted."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)]
    biases = {layer.bias for layer in layers if layer.bias is not None}
    decayed, excluded = groups
    moved = [item for item in excluded["params"] if item[1] in biases]
    rest = [item for item in excluded["params"] if item[1] not in biases]
    groups = [{**decayed, "params": [*decayed["params"], *moved]}, {**excluded, "params": rest}]
    return [group for group in groups if group["params"]]


def _with_blocks(groups: list[dict[str, Any]], blocks: Mapping[str, int]) -> list[dict[str, Any]]:
    """`groups` with a group of its own for the parameters of each ending in `blocks`; the first that fits counts.

    Raises:
        InputError: an ending that no name of an adapted parameter has.
    """
    for ending, count in blocks.items():
        cut, found = [], False
        for group in groups:
            free = "blocks" not in group and group.get("adapt", True)
            mine = [item for item in group["params"] if free and item[0].endswith(ending)]
            rest = [item for item in group["params"] if not (free and item[0].endswith(ending))]
            cut += [{**group, "params": rest}] if rest else []
            cut += [{**group, "params": mine, "blocks": count}] if mine else []
            found = found or bool(mine)
        if not found:
            raise InputError(f"optimizer.blocks: no adapted parameter's name ends with {ending!r}")
        groups = cut
    return groups
