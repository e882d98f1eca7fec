"""timm: `register()`, then `create_optimizer_v2(model, "anybatchlamb", lr=...)`, and so the name in timm's train.py."""

import importlib
from collections.abc import Iterable
from typing import Any

from torch import nn

from anybatch.optim import LAMB, LARS


def lamb(params: Iterable[Any], **settings: Any) -> LAMB:
    """LAMB over timm's groups: parameters of fewer than two dimensions are not adapted."""
    return LAMB(adapting(params), **settings)


def lars(params: Iterable[Any], **settings: Any) -> LARS:
    """LARS over timm's groups: parameters of fewer than two dimensions are not adapted."""
    return LARS(adapting(params), **settings)


def adapting(params: Iterable[Any]) -> list[dict[str, Any]]:
    """Returns groups that adapt matrices, and not parameters of fewer than two dimensions, as `param_groups` does.

    Groups that have `adapt` do not change, nor does any other key of a group.

    Args:
        params: parameters, (name, parameter) pairs, or groups of either.
    """
    given = list(params)
    groups = given if given and isinstance(given[0], dict) else [{"params": given}]
    found: list[dict[str, Any]] = []
    for group in groups:
        if "adapt" in group:
            found.append(group)
            continue
        members = [group["params"]] if isinstance(group["params"], nn.Parameter) else list(group["params"])
        for adapt in (True, False):
            part = [each for each in members if (_parameter(each).ndim >= 2) == adapt]
            if part:
                found.append({**group, "params": part, "adapt": adapt})
    return found


def _parameter(member: Any) -> nn.Parameter:
    return member[1] if isinstance(member, tuple) else member  # type: ignore[no-any-return]


def register(factory: Any = None) -> None:
    """Adds "anybatchlamb" and "anybatchlars" to timm's optimizers; a second call changes nothing.

    The names have no underscore: timm looks up the part after the last one, so "anybatch_lamb" is timm's Lamb.

    Args:
        factory: the module with timm's registry; None: timm.optim's.
    """
    factory = factory or importlib.import_module("timm.optim._optim_factory")
    registry = factory.default_registry
    known = set(registry.list_optimizers())
    for name, make, source, traits in (
        ("anybatchlamb", lamb, "LAMB, Algorithm 2", {"has_betas": True}),
        ("anybatchlars", lars, "LARS, Algorithm 1", {"has_momentum": True}),
    ):
        if name not in known:
            described = f"{source} of You et al. 2020, by anybatch"
            registry.register(factory.OptimInfo(name=name, opt_class=make, description=described, **traits))
