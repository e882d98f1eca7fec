"""The general strategy over any optimizer of PyTorch's interface."""

import math
from collections import defaultdict
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from anybatch.optim.norms import Norm
from anybatch.optim.parts import Part, computed_in
from anybatch.optim.strategy import LayerwiseOptimizer


class Layerwise(LayerwiseOptimizer):
    """The paper's general strategy: the base optimizer says where to, the layer's own norm how far.

        x' = base step from x at lr = 1        u = x - x'        x <- x - lr * phi(|x|)/|u| * u

    `Layerwise(AdamW(...))` is LAMB, up to the rounding of x - x'. The learning rate is that of the base's groups, so a
    scheduler may hold either optimizer, and lr 0 moves nothing. Groups, state and defaults are the base's own objects;
    saving, loading, adding a group and zeroing are its own.

    Args:
        base: any `torch.optim.Optimizer` whose update is proportional to lr and whose step needs no closure. Its groups
            may set `adapt` (False: the base's own step) and `blocks`, as those of `LAMB`.
        norm, phi, trust_clip: as in `LAMB`; a group may override them.

    State: the base's. During a step: one copy of the parameters, and u.

    Raises:
        ValueError: naming the argument, its value and its bound; or base is layer-wise itself.
        TypeError: base is no optimizer; parameters or gradients are complex or sparse, or parameters
            are FSDP1's flat ones.

    Source: You et al. 2020, arXiv 1904.00962, section 3.

    Example:
        >>> import torch
        >>> layer = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> opt = Layerwise(torch.optim.SGD([layer], lr=0.1))
        >>> layer.grad = torch.tensor([7.0, 0.0])
        >>> opt.step()
        >>> layer.data
        tensor([2.5000, 4.0000])
    """

    base: Optimizer

    def __init__(
        self,
        base: Optimizer,
        *,
        norm: Norm = "l2",
        phi: tuple[float, float] = (0.0, math.inf),
        trust_clip: tuple[float, float] = (0.0, math.inf),
    ) -> None:
        if not isinstance(base, Optimizer):
            raise TypeError(f"base is a {type(base).__name__}, not a torch.optim.Optimizer")
        if isinstance(base, LayerwiseOptimizer):
            raise ValueError(f"base={type(base).__name__} is layer-wise already")
        # The keys become the base's, so that groups added or loaded later have them, too.
        for key, value in {"adapt": True, "blocks": 1, "norm": norm, "phi": phi, "trust_clip": trust_clip}.items():
            base.defaults.setdefault(key, value)
        self.__setstate__({"base": base})
        for index in range(len(self.param_groups)):
            self._check_group(index)

    def _updates(self, parts: list[Part], clip: Tensor | None) -> None:
        for part in parts:
            part.weights = [x.to(computed_in(x.dtype), copy=True) for x in part.locals]
        rates = [group["lr"] for group in self.param_groups]
        try:
            for group in self.param_groups:
                group["lr"] = 1.0
            self.base.step()
        finally:
            for group, lr in zip(self.param_groups, rates, strict=True):
                group["lr"] = lr
        for part in parts:
            part.updates = [x - p for x, p in zip(part.weights, part.locals, strict=True)]

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The base's groups."""
        return self.base.param_groups

    @property
    def state(self) -> defaultdict[Tensor, Any]:  # type: ignore[override]
        """The base's state."""
        return self.base.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The base's defaults."""
        return self.base.defaults

    def state_dict(self) -> dict[str, Any]:
        """The base's."""
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what this or a bare base has saved."""
        self.base.load_state_dict(state_dict)
        self.__setstate__({})

    def zero_grad(self, set_to_none: bool = True) -> None:
        """The base's."""
        self.base.zero_grad(set_to_none)

    def _add_param_group(self, param_group: dict[str, Any]) -> None:
        self.base.add_param_group(param_group)

    def __getstate__(self) -> dict[str, Any]:
        return {"base": self.base, "_seen": self._seen}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # One list of hooks for both: the base saves and loads, whoever is asked.
        for hooks in ("state_dict_pre", "state_dict_post", "load_state_dict_pre", "load_state_dict_post"):
            self.__dict__[f"_optimizer_{hooks}_hooks"] = self.base.__dict__[f"_optimizer_{hooks}_hooks"]
