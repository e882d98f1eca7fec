"""The general strategy over any optimizer of PyTorch's interface."""

import math
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from anybatch.optim.checks import check_strategy
from anybatch.optim.norms import Norm
from anybatch.optim.parts import Part, computed_in
from anybatch.optim.state_dicts import fitted
from anybatch.optim.strategy import LayerwiseOptimizer

# A step of these at lr = 1 is not 1 / lr times their step at lr.
_UNFIT: dict[type[Optimizer], str] = {
    torch.optim.ASGD: "its step is not proportional to lr, and its averages would be those of steps at lr = 1",
    torch.optim.Adafactor: "its step is min(lr, 1 / sqrt(t)) times a norm of the parameters, not proportional to lr",
    torch.optim.LBFGS: "its step needs a closure, and searches along a line",
    torch.optim.Rprop: "its steps have sizes of their own, which lr only starts",
    torch.optim.SparseAdam: "it takes sparse gradients alone, and layers are dense",
}


class Layerwise(LayerwiseOptimizer):
    """The paper's general strategy: the base optimizer gives the direction, the layer's norm the length.

        x' = base step from x at lr = 1        u = x - x'        x <- x - lr * phi(|x|)/|u| * u

    `Layerwise(AdamW(...))` is LAMB, up to the rounding of x - x'. The learning rate is in the base's groups, so a
    scheduler may hold either optimizer; lr 0 moves nothing. Groups, state, defaults and hooks are the base's objects;
    saving, loading, adding a group and zeroing are the base's, too. A hook of either optimizer runs once a step,
    around the whole step: it finds the real learning rate and the final parameters.

    Args:
        base: any `torch.optim.Optimizer` whose update is proportional to lr and whose step needs no closure. Of
            PyTorch's optimizers these are Adadelta, Adagrad, Adam, AdamW, Adamax, Muon, NAdam, RAdam, RMSprop and SGD.
            Its groups may set `adapt` (False: the base's step) and `blocks`, as in `LAMB`.
        norm, phi, trust_clip: as in `LAMB`; a group may override them.

    State: the base's. During a step: one copy of the parameters, and u.

    Raises:
        ValueError: naming the argument, its value and its bound; or base is layer-wise itself, or not proportional.
        TypeError: base is no optimizer; parameters or gradients are complex or sparse, or parameters
            are the flat ones of FSDP1 or ZeRO.

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
            raise TypeError(
                f"base is a {type(base).__name__}, not a torch.optim.Optimizer; groups do not make a Layerwise, since "
                "they do not say what steps them"
            )
        if isinstance(base, LayerwiseOptimizer):
            raise ValueError(f"base={type(base).__name__} is layer-wise already")
        for kind, reason in _UNFIT.items():
            if isinstance(base, kind):
                raise ValueError(f"base={type(base).__name__} cannot be made layer-wise: {reason}")
        if any("lr" not in group for group in base.param_groups):
            raise ValueError(f"base={type(base).__name__} has groups without lr, so there is no step at lr = 1")
        # The base gets the keys, so that groups added or loaded later have them, too.
        keys = {"adapt": True, "blocks": 1, "norm": norm, "phi": phi, "trust_clip": trust_clip}
        check_strategy({**base.param_groups[0], **keys})
        for key, value in keys.items():
            if base.defaults.get(key, value) != value:
                raise ValueError(
                    f"{key}={value!r}, but base={type(base).__name__} has {key}={base.defaults[key]!r}, "
                    f"from another Layerwise or of its own"
                )
        base.defaults.update(keys)
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
            with _without_step_hooks(self.base):
                _unhooked(self.base)()
        except BaseException:
            # A step at lr = 1 that was not scaled down would ruin the parameters.
            for part in parts:
                for p, x in zip(part.locals, part.weights, strict=True):
                    p.copy_(x)
            raise
        finally:
            for group, lr in zip(self.param_groups, rates, strict=True):
                group["lr"] = lr
        for part in parts:
            part.updates = [x - p for x, p in zip(part.weights, part.locals, strict=True)]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base's groups."""
        return self.base.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.base.param_groups = groups

    @property
    def state(self) -> defaultdict[Tensor, Any]:
        """The base's state."""
        return self.base.state

    @state.setter
    def state(self, state: defaultdict[Tensor, Any]) -> None:
        self.base.state = state

    @property
    def defaults(self) -> dict[str, Any]:
        """The base's defaults."""
        return self.base.defaults

    @defaults.setter
    def defaults(self, defaults: dict[str, Any]) -> None:
        self.base.defaults = defaults

    def state_dict(self) -> dict[str, Any]:
        """The base's."""
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what this optimizer or a bare base has saved.

        Raises:
            ValueError: a group has a value that no group can have; nothing was loaded.
        """

        # A hook, so that it sees the state dict after the user's hooks.
        def checked(base: Optimizer, given: dict[str, Any]) -> dict[str, Any]:
            given = fitted(base, given)
            self._check_loaded(given)
            return given

        check = self.base.register_load_state_dict_pre_hook(checked)
        try:
            self.base.load_state_dict(state_dict)
        finally:
            check.remove()
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
        if "base" in state:  # what is loaded into the base itself shall lose no setting either
            self.base.register_load_state_dict_pre_hook(fitted)
        # One list of hooks for both: the base saves and loads, and both step together, whichever is called.
        for what in ("step", "state_dict", "load_state_dict"):
            for hooks in (f"_optimizer_{what}_pre_hooks", f"_optimizer_{what}_post_hooks"):
                self.__dict__[hooks] = self.base.__dict__[hooks]


def _unhooked(optimizer: Optimizer) -> Callable[[], Any]:
    """Returns the optimizer's step without PyTorch's wrapper around it, which calls the hooks of all optimizers."""
    step: Any = optimizer.step
    if getattr(step, "_wrapped_by_lr_sched", False):  # a scheduler's own wrapper, which only says that it was called
        optimizer._opt_called = True  # type: ignore[attr-defined]
        step = step.__wrapped__
    if getattr(step, "hooked", False) and hasattr(step, "__wrapped__"):
        step = step.__wrapped__
        return partial(step, optimizer)
    return optimizer.step


@contextmanager
def _without_step_hooks(optimizer: Optimizer) -> Iterator[None]:
    hooks = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
    optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks = OrderedDict(), OrderedDict()
    try:
        yield
    finally:
        optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks = hooks
