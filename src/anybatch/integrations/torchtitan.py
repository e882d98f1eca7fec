"""torchtitan: an optimizer container whose configuration can name LAMB and LARS."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torchtitan.components.optimizer import OptimizersContainer, ParamGroupConfig

from anybatch.optim import LAMB, LARS


class LayerwiseOptimizers(OptimizersContainer):  # type: ignore[misc]
    """torchtitan's container; it also knows "LAMB" and "LARS".

    A model's config registry sets it as `optimizer=LayerwiseOptimizers.Config(param_groups=[...])`, or by `lamb(...)`.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(OptimizersContainer.Config):  # type: ignore[misc]
        """torchtitan's; but `implementation="fused"` requests anybatch's fused step only if there is one."""

    @staticmethod
    def _resolve_optimizer_factory(name: str) -> Callable[..., Optimizer]:
        own: dict[str, Callable[..., Optimizer]] = {"LAMB": LAMB, "LARS": _lars}
        return own.get(name) or OptimizersContainer._resolve_optimizer_factory(name)

    @staticmethod
    def _build_impl_kwargs(config: Any) -> dict[str, Any]:
        found = dict(OptimizersContainer._build_impl_kwargs(config))
        # True requires the fused step, which DTensors cannot take; None takes the fastest available path.
        return {name: value or None for name, value in found.items()}


def _lars(groups: list[dict[str, Any]], **settings: Any) -> LARS:
    # torchtitan gives the learning rate only to groups, and LARS has no default.
    return LARS(groups, **{"lr": groups[0]["lr"], **settings})


def lamb(lr: float, weight_decay: float = 0.01, **settings: Any) -> Any:
    """Configures LAMB for a whole model: biases and normalization layers are neither decayed nor adapted.

    Args:
        lr, weight_decay, settings: as in `LAMB`; `**reference.at(batch).optimizer` fits.
    """
    excluded = {"lr": lr, "weight_decay": 0.0, "adapt": False, **settings}
    adapted = {"lr": lr, "weight_decay": weight_decay, "adapt": True, **settings}
    return LayerwiseOptimizers.Config(
        param_groups=[
            ParamGroupConfig(pattern=r"norm|(^|[._])bias$", optimizer_name="LAMB", optimizer_kwargs=excluded),
            ParamGroupConfig(pattern=r".*", optimizer_name="LAMB", optimizer_kwargs=adapted),
        ]
    )
