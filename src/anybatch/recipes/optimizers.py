"""The optimizers that a recipe can name, one row each: built from parameter groups and options."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from anybatch.errors import InputError
from anybatch.optim import LAMB, LARS, Layerwise, param_groups
from anybatch.optim.muon import MuonAdamW, muon_groups
from anybatch.recipes.recipe import OptimizerSettings, ReferenceSettings

# What a rule scales, besides the learning rate and weight decay, under the constructors' argument names.
MOMENTS = ("betas", "momentum", "eps")


@dataclass(frozen=True)
class Entry:
    """A row of the table.

    Args:
        kind: the optimizer's class.
        defaults: arguments that differ from the class's defaults: the paper's and its baselines'.
        layerwise: whether `Layerwise` steps `kind`.
    """

    kind: type[torch.optim.Optimizer]
    defaults: Mapping[str, Any]
    layerwise: bool = False


OPTIMIZERS: dict[str, Entry] = {
    "lamb": Entry(LAMB, {}),
    "lars": Entry(LARS, {}),
    "adamw": Entry(torch.optim.AdamW, {"eps": 1e-6}),
    "adam": Entry(torch.optim.Adam, {"eps": 1e-6}),
    "adagrad": Entry(torch.optim.Adagrad, {}),
    "momentum": Entry(torch.optim.SGD, {"momentum": 0.9}),
    "nesterov": Entry(torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "muon": Entry(MuonAdamW, {}),
    "layerwise-adamw": Entry(torch.optim.AdamW, {"eps": 1e-6}, layerwise=True),
    "layerwise-muon": Entry(MuonAdamW, {}, layerwise=True),
    "layerwise-sgd": Entry(torch.optim.SGD, {"momentum": 0.9}, layerwise=True),
}


def find_optimizer(name: str) -> Entry:
    """Returns the row called `name`, or the user's class for MODULE:CLASS.

    Raises:
        InputError: there is no such row, module or class, or the class is no `torch.optim.Optimizer`.
    """
    if name in OPTIMIZERS:
        return OPTIMIZERS[name]
    module, _, kind = name.partition(":")
    if not (module and kind):
        raise InputError(f"optimizer.name = {name!r}: must be one of {', '.join(OPTIMIZERS)}, or MODULE:CLASS")
    try:
        found = getattr(importlib.import_module(module), kind)
    except AttributeError:
        raise InputError(f"optimizer.name = {name!r}: the module {module} has no {kind}") from None
    # The module is the user's program, and may fail in any way.
    except Exception as error:
        raise InputError(
            f"optimizer.name = {name!r}: importing {module} failed ({error}); a file in this folder is found "
            "with PYTHONPATH=."
        ) from None
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        raise InputError(f"optimizer.name = {name!r}: {kind} is no torch.optim.Optimizer")
    return Entry(found, {})


def tuned_moments(settings: OptimizerSettings, reference: ReferenceSettings) -> dict[str, Any]:
    """Returns betas, momentum and eps at the reference's batch: the reference's, otherwise the optimizer's defaults.

    Raises:
        InputError: the reference has one that the optimizer does not take, or the rule scales moments that the
            optimizer does not have.
    """
    entry = find_optimizer(settings.name)
    parameters = inspect.signature(entry.kind).parameters
    defaults = {name: parameters[name].default for name in MOMENTS if name in parameters}
    moments = defaults | {name: value for name, value in entry.defaults.items() if name in MOMENTS}
    for name in MOMENTS:
        value = getattr(reference, name)
        if value is not None and name not in moments:
            raise InputError(f"reference.{name} = {value}: {settings.name} takes no {name}; set reference.{name}=null")
    rule = reference.parts
    lacks_betas = "betas" not in moments and (rule.beta2 != "kept" or rule.beta1 == "sde")
    if rule.beta1 == "sde" and "momentum" in moments and "betas" in moments:
        raise InputError(
            f"reference.rule = {reference.rule!r}: there is no such rule for the momentum of {settings.name}; keep it: "
            "reference.beta1_rule=kept"
        )
    if lacks_betas or (rule.beta1 != "kept" and not {"betas", "momentum"} & moments.keys()):
        raise InputError(
            f"reference.rule = {reference.rule!r}: {settings.name} has no betas for it to scale; "
            "choose sqrt or linear, or keep them: reference.beta1_rule=kept, reference.beta2_rule=kept"
        )
    return {name: value if (value := getattr(reference, name)) is not None else moments[name] for name in moments}


def build_optimizer(
    model: nn.Module, settings: OptimizerSettings, hyperparameters: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """Builds the optimizer named in `settings` over `model`'s parameters; the engine sets each step's learning rate.

    Args:
        hyperparameters: lr, weight_decay, and those of betas, momentum and eps that the optimizer takes, after
            scaling.

    Raises:
        InputError: an unknown name, or an option that the optimizer does not take.
    """
    entry = find_optimizer(settings.name)
    if taken := {"params", "lr", "weight_decay"} & settings.options.keys():
        raise InputError(f"optimizer.options.{min(taken)}: set optimizer.{min(taken)} instead")
    if settings.blocks and not (entry.layerwise or entry.kind in (LAMB, LARS)):
        raise InputError(f"optimizer.blocks: {settings.name} has no layers to cut; lamb, lars and layerwise-* have")
    given = {**entry.defaults, **hyperparameters, **settings.options}
    strategy = {name: given.pop(name) for name in ("norm", "phi", "trust_clip") if entry.layerwise and name in given}
    groups = param_groups(model, weight_decay=given.pop("weight_decay"), adapt_excluded=settings.adapt_excluded)
    if settings.decay_biases:
        groups = _with_biases(model, groups)
    groups = _with_blocks(groups, settings.blocks)
    try:
        if entry.kind is MuonAdamW:
            groups = muon_groups(model, groups)
        kind: Callable[..., torch.optim.Optimizer] = entry.kind
        base = kind(groups, **given)
        return Layerwise(base, **strategy) if entry.layerwise else base
    # The optimizer judges its options, and may refuse them in any way.
    except Exception as error:
        raise InputError(f"optimizer {settings.name}, options {settings.options}: {error}") from None


def _with_biases(model: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns `groups` with the biases of convolutions and linear layers among the decayed and adapted parameters."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)]
    biases = {layer.bias for layer in layers if layer.bias is not None}
    decayed, excluded = groups
    moved = [item for item in excluded["params"] if item[1] in biases]
    rest = [item for item in excluded["params"] if item[1] not in biases]
    groups = [{**decayed, "params": [*decayed["params"], *moved]}, {**excluded, "params": rest}]
    return [group for group in groups if group["params"]]


def _with_blocks(groups: list[dict[str, Any]], blocks: Mapping[str, int]) -> list[dict[str, Any]]:
    """Returns `groups` with a separate group for the parameters of each ending in `blocks`; the first match counts.

    Raises:
        InputError: an ending that no adapted parameter's name has.
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
