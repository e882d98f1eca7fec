"""timm: `register()`, then `create_optimizer_v2(model, "anybatchlamb", lr=...)`, and so the name in timm's train.py."""

import importlib
from collections.abc import Iterable
from typing import Any

from anybatch.integrations.grouping import adapting
from anybatch.optim import LAMB, LARS


def lamb(params: Iterable[Any], **settings: Any) -> LAMB:
    """LAMB over timm's groups: parameters of fewer than two dimensions are not adapted."""
    return LAMB(adapting(params), **settings)


def lars(params: Iterable[Any], **settings: Any) -> LARS:
    """LARS over timm's groups: parameters of fewer than two dimensions are not adapted."""
    return LARS(adapting(params), **settings)


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
