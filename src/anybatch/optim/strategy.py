"""The paper's general strategy: any update, rescaled layer by layer to the layer's own norm."""

import math
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from anybatch.optim.checks import check_parameter, check_replaced, check_strategy, local_gradient
from anybatch.optim.norms import has_numbers, measure
from anybatch.optim.parts import Part
from anybatch.optim.sharding import layout_of, local, mesh_of


class TrustRatio(NamedTuple):
    """The last step of one layer: it moved by lr * ratio * update."""

    weight_norm: float
    update_norm: float
    ratio: float
    clamped: bool


@dataclass
class Seen:
    """Records of steps for later questions; a separate object, since torch.compile forgets attributes of optimizers.

    Attributes:
        layers: names of the layers of the last step taken.
        columns: weight norm, update norm, ratio and whether a bound acted, shape (4, layers).
        skipped_steps, nonfinite_layers: see `NativeOptimizer`.
        params: for each group, the checked parameters with their shapes. Held weakly, since whoever shards a model in
            place wants the whole parameters freed; not copied or pickled.
    """

    layers: list[str] = field(default_factory=list)
    columns: Tensor | None = None
    skipped_steps: int = 0
    nonfinite_layers: list[str] = field(default_factory=list)
    params: list[list[tuple[weakref.ref[Tensor], torch.Size]]] = field(default_factory=list)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "params": []}


class LayerwiseOptimizer(Optimizer, ABC):
    """Owns `step`; a subclass computes u.

    gate     may refuse the step before anything has changed
    phase 1  u for every layer of every group                 moments advance
    norms    |x| and |u| of all layers, over all their shards, in one all-reduce of each mesh
    phase 2  x <- x - lr * ratio * u                          ratio = phi(|x|) / |u|, or 1 where `adapt` is False
    """

    _seen: "Seen"

    @abstractmethod
    def _updates(self, parts: list[Part], clip: Tensor | None) -> None:
        """Phase 1: sets weights and updates of every part."""

    def _gate(self, parts: list[Part]) -> tuple[bool, Tensor | None]:
        """Returns whether to take the step, and the factor that clips the gradients."""
        return True, None

    def _ratios(
        self, group: dict[str, Any], weight_norms: Tensor, update_norms: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the ratio's |u|, the ratio, and whether a bound acted, for each layer of an adapted group."""
        bounds = {"phi": group["phi"], "trust_clip": group["trust_clip"]}
        return update_norms, *trust_ratios(weight_norms, update_norms, **bounds)

    def _apply(self, part: Part, ratios: Tensor) -> None:
        """Phase 2: x <- x - lr * ratio * u."""
        xs, us, rates = part.by_layer(part.weights), part.by_layer(part.updates), part.rates(ratios * part.group["lr"])
        if part.foreach and xs:  # a shard may hold no row of any layer
            torch._foreach_addcmul_(xs, us, rates, -1)
        else:
            for x, u, rate in zip(xs, us, rates, strict=True):
                x.addcmul_(u, rate, value=-1)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes one step; returns the result of `closure`, which may compute the gradients again.

        Raises:
            RuntimeError: under nonfinite="raise", naming the parameters; or if a parameter has another dtype or shape
                than its state; nothing was changed.
            TypeError: a gradient is sparse or complex; nothing was changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        parts = self._parts()
        taken, clip = self._gate(parts)
        if taken and parts:
            record = self._take(parts, clip)
            self._seen.layers = self._layer_names(parts)
            columns = [each.to(record[0].device) for each in record]
            # A single tensor is not copied: this would start PyTorch's threads, which then spin beside the caller.
            self._seen.columns = columns[0] if len(columns) == 1 else torch.cat(columns, dim=1)
        return loss

    def _take(self, parts: list[Part], clip: Tensor | None) -> list[Tensor]:
        """Takes both phases; returns (4, layers) a part: weight norm, update norm, ratio, whether a bound acted."""
        self._updates(parts, clip)
        record = []
        weights = [part.layers(part.weights, part.group["norm"]) for part in parts]
        updates = [part.layers(part.updates, part.group["norm"]) for part in parts]
        norms = measure([*weights, *updates])
        for part, weight_norms, update_norms in zip(parts, norms[: len(parts)], norms[len(parts) :], strict=True):
            if part.group["adapt"]:
                update_norms, ratios, clamped = self._ratios(part.group, weight_norms, update_norms)
            else:
                ratios, clamped = torch.ones_like(weight_norms), torch.zeros_like(weight_norms)
            self._apply(part, ratios)
            for p, x in zip(part.locals, part.weights, strict=True):
                if x is not p:
                    p.copy_(x)
            record.append(torch.stack([weight_norms, update_norms, ratios, clamped.to(ratios.dtype)]))
        return record

    def _layer_names(self, parts: list[Part]) -> list[str]:
        return [name for part in parts for name in part.layer_names()]

    def trust_ratios(self) -> dict[str, TrustRatio]:
        """Returns what the last step taken did to every layer that had a gradient; {} before the first step.

        Names are those of `param_groups` or `named_parameters` if the optimizer was given names, otherwise
        "group.index"; with blocks, "name[block]". Costs one transfer from the device. Values are NaN if the parameters
        have no numbers (meta, fake).
        """
        layers, columns = self._seen.layers, self._seen.columns
        if columns is None:
            return {}
        if not has_numbers(columns):
            return dict.fromkeys(layers, TrustRatio(math.nan, math.nan, math.nan, False))
        return {
            name: TrustRatio(weight, update, ratio, bool(clamped))
            for name, weight, update, ratio, clamped in zip(layers, *columns.tolist(), strict=True)
        }

    def _parts(self) -> list[Part]:
        if not torch.compiler.is_compiling():
            self._check_replaced()
        parts: dict[tuple[int, torch.device, torch.dtype, Any], Part] = {}
        for index, group in enumerate(self.param_groups):
            for name, p in zip(parameter_names(index, group), group["params"], strict=True):
                if p.grad is None:
                    continue
                mesh = mesh_of(p)
                key = (index, p.device, p.dtype, mesh)
                if key not in parts:
                    parts[key] = Part(group, p.device, p.dtype, mesh)
                part = parts[key]
                part.names.append(name)
                part.params.append(p)
                part.layouts.append(layout_of(p, group["blocks"]))
                part.locals.append(local(p))
                part.grads.append(local_gradient(name, p))
        return list(parts.values())

    def _check(self, group: dict[str, Any]) -> None:
        """Raises ValueError if a key of a group cannot be used."""
        check_strategy(group)

    def _check_replaced(self) -> None:
        """Checks parameters that came into a group without `add_param_group`."""
        seen = self._seen.params
        for index, group in enumerate(self.param_groups):
            if index == len(seen):
                self._check_group(index)
                continue
            params = group["params"]
            if len(seen[index]) == len(params) and all(
                p is ref() for p, (ref, _) in zip(params, seen[index], strict=True)
            ):
                continue
            known, here = {id(ref()) for several in seen for ref, _ in several}, set(map(id, params))
            come = [p for p in params if id(p) not in known]
            if come:
                check_replaced(index, [shape for ref, shape in seen[index] if id(ref()) not in here], come)
                self._check_group(index)

    def _check_group(self, index: int) -> None:
        group = self.param_groups[index]
        self._check(group)
        others = {name for i in range(index) for name in parameter_names(i, self.param_groups[i])}
        for name, p in zip(parameter_names(index, group), group["params"], strict=True):
            check_parameter(name, p, group["blocks"])
            if name in others:
                raise ValueError(
                    f"two parameters are named {name}, by which trust_ratios() could not tell them apart: give several "
                    "models names of their own, as param_groups(torch.nn.ModuleDict({'first': ..., 'second': ...})) has"
                )
            others.add(name)
        known = [(weakref.ref(p), p.shape) for p in group["params"]]
        self._seen.params[index:] = [known, *self._seen.params[index + 1 :]]

    def _check_loaded(self, state_dict: dict[str, Any]) -> None:
        """Raises ValueError if a saved group cannot be used."""
        for index, (group, saved) in enumerate(zip(self.param_groups, state_dict["param_groups"], strict=False)):
            loaded = {**self.defaults, **saved, "params": group["params"]}
            self._check(loaded)
            for name, p in zip(parameter_names(index, group), group["params"], strict=True):
                check_parameter(name, p, loaded["blocks"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group as PyTorch does; ValueError or TypeError, and no group added, if something in it is wrong.

        Groups with and without names may be mixed; parameters without a name are called "group.index".
        """
        if isinstance(param_group, dict):
            _name_alike(self.param_groups, param_group)
        self._add_param_group(param_group)
        try:
            self._check_group(len(self.param_groups) - 1)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise
        _own_tensors([*self.param_groups, self.defaults])

    def _add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("_seen", Seen())
        for group in self.param_groups:
            for key, value in self.defaults.items():
                if key != "differentiable":  # PyTorch adds it to the defaults of whoever loads
                    group.setdefault(key, value)
        _own_tensors([*self.param_groups, self.defaults])


def trust_ratios(
    weight_norms: Tensor,
    update_norms: Tensor,
    *,
    phi: tuple[float, float],
    trust_clip: tuple[float, float],
    coefficient: float = 1.0,
    eps: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """ratio = clip(coefficient * phi(|x|) / (|u| + eps)); 1 if |x| = 0 or |u| = 0.

    Args:
        weight_norms, update_norms: |x| and |u|, shape (layers,).
        phi, trust_clip: lower and upper bound of |x| and of the ratio.

    Returns:
        The ratios, and whether a bound acted; both of shape (layers,).
    """
    raw = coefficient * weight_norms.clamp(*phi) / (update_norms + eps)
    still = (weight_norms == 0) | (update_norms == 0)
    outside = (weight_norms < phi[0]) | (weight_norms > phi[1]) | (raw < trust_clip[0]) | (raw > trust_clip[1])
    return torch.where(still, 1.0, raw.clamp(*trust_clip)), outside & ~still


def parameter_names(index: int, group: dict[str, Any]) -> list[str]:
    """Returns the user's names, or "group.index" if the parameters came without."""
    names: list[str] = group.get("param_names", [])
    size = len(group["params"])
    # If somebody changes a group's parameters by hand, its names stay as they were.
    return names if len(names) == size else [*names[:size], *(f"{index}.{i}" for i in range(len(names), size))]


def _name_alike(groups: list[dict[str, Any]], new: dict[str, Any]) -> None:
    """Names the unnamed if anything has names: PyTorch wants all groups with names or all without."""
    params = new.get("params")
    if params is None or isinstance(params, set):
        return  # PyTorch refuses it
    new["params"] = params = [params] if isinstance(params, Tensor) else list(params)
    if "param_names" in new or any(isinstance(each, tuple) for each in params):
        for index, group in enumerate(groups):
            group.setdefault("param_names", parameter_names(index, group))
    elif any("param_names" in group for group in groups):
        new["param_names"] = [f"{len(groups)}.{i}" for i in range(len(params))]


def _own_tensors(several: list[dict[str, Any]]) -> None:
    """Gives every group, and the defaults, a separate tensor for each setting: schedulers fill them in place."""
    seen: set[int] = set()
    for settings in several:
        for key, value in settings.items():
            if isinstance(value, Tensor):
                settings[key] = value = value.clone() if id(value) in seen else value
                seen.add(id(value))
