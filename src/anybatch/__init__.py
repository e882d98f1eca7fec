"""anybatch: batch size is a hardware decision, not a hyperparameter."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anybatch.optim import LAMB, LARS, Layerwise, param_groups
    from anybatch.scaling import GradientNoiseScale, Reference, schedule

__all__ = ["LAMB", "LARS", "GradientNoiseScale", "Layerwise", "Reference", "param_groups", "schedule"]

_ROOMS = ("optim", "scaling")


def __getattr__(name: str) -> Any:
    """Imports a public name or its room on first use: `anybatch --help` needs no torch."""
    if name in _ROOMS:
        return import_module(f"anybatch.{name}")
    if name in __all__:
        for room in _ROOMS:
            module = import_module(f"anybatch.{room}")
            if hasattr(module, name):
                globals()[name] = getattr(module, name)
                return globals()[name]
    raise AttributeError(f"module 'anybatch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
