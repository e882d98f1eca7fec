"""What LAMB and LARS share beyond the strategy: the gate, their state, and narrow parameters."""

import inspect
import weakref
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from anybatch.optim.checks import check_speed, check_state, clip_bound, one_of
from anybatch.optim.gate import Nonfinite, look
from anybatch.optim.kernels import kernels_for
from anybatch.optim.norms import accumulator
from anybatch.optim.parts import Part, computed_in
from anybatch.optim.recall import Recall
from anybatch.optim.sharding import is_sharded, local
from anybatch.optim.state_dicts import exact_state, laid_out_like
from anybatch.optim.strategy import LayerwiseOptimizer, Seen, parameter_names

# Searched for the optimizer whose groups a new optimizer gets.
_LIVING: "weakref.WeakSet[NativeOptimizer]" = weakref.WeakSet()


class NativeOptimizer(LayerwiseOptimizer):
    """A layer-wise optimizer that makes u from the gradients and its own state.

    Narrow parameters (bf16, fp16) have fp32 state; a step is computed in fp32 and rounded once, at its end.

    Attributes:
        max_grad_norm, nonfinite, process_group: as given; they hold for all groups, and may be changed between steps.
        gradient_scale: what a step multiplies every gradient with, beside its own clipping. Who clips by the norm of
            all ranks sets it, and spares a pass over the gradients.
    """

    gradient_scale: float = 1.0

    def __init__(self, params: Any, arguments: Mapping[str, Any]) -> None:
        """Takes the arguments of the subclass, by name: each is a setting of the groups, or one for all groups."""
        params = params if isinstance(params, Tensor) else list(params)
        kind = next(cls for cls in type(self).__mro__ if "_state_names" in vars(cls))
        usual = {name: each.default for name, each in inspect.signature(kind).parameters.items() if name != "params"}
        given = {name: arguments[name] for name in usual}
        given.update(self._inherited(kind, params, given, usual))
        self.max_grad_norm: float | None = given.pop("max_grad_norm")
        self.nonfinite: Nonfinite = given.pop("nonfinite")
        self.process_group = given.pop("process_group")
        one_of("nonfinite", self.nonfinite, ("propagate", "skip", "raise"))
        clip_bound(self.max_grad_norm)
        self._seen = Seen()
        self._fused: dict[torch.device, Any] = {}
        self._recall: Recall | None = None
        super().__init__(params, {"adapt": True, "blocks": 1, **given})
        _LIVING.add(self)

    def _inherited(
        self, kind: type["NativeOptimizer"], params: Any, given: Mapping[str, Any], usual: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Returns the settings of an optimizer with these groups that this one was not given.

        Horovod and others make a new optimizer from `param_groups` only, which lack the settings for all groups.
        """
        if not (params and all(isinstance(each, dict) and each.keys() >= {"adapt", "blocks", "lr"} for each in params)):
            return {}
        ids = {id(p) for group in params for p in group["params"]}
        found: dict[str, Any] = {}
        for former in list(_LIVING):
            if isinstance(former, kind) and any(id(p) in ids for group in former.param_groups for p in group["params"]):
                for name, value in given.items():
                    has = former.defaults[name] if name in former.defaults else getattr(former, name)
                    if value is usual[name] or (not isinstance(value, Tensor) and value == usual[name]):
                        found[name] = has
        return found

    @property
    def skipped_steps(self) -> int:
        """The number of steps refused under nonfinite="skip" in this object's life.

        It is pickled and copied, but not part of `state_dict`, which has only PyTorch's two keys.
        """
        return self._seen.skipped_steps

    @property
    def nonfinite_layers(self) -> list[str]:
        """The names of the parameters because of which the last step was refused; empty if it was taken.

        Every rank knows the names of sharded parameters; ranks that own different parameters know only the names of
        theirs.
        """
        return self._seen.nonfinite_layers

    _state_names: ClassVar[tuple[str, ...]]

    @abstractmethod
    def _update(self, part: Part, clip: Tensor | None) -> None:
        """Sets part.updates from part.weights, the clipped gradients and the state, which advances."""

    @abstractmethod
    def _new_state(self, group: dict[str, Any], p: Tensor) -> dict[str, Tensor]:
        """Returns the state of a parameter before its first step."""

    def _parts(self) -> list[Part]:
        recall, self._recall = self._recall, None
        again = recall.again(self.param_groups, self.state) if recall is not None else None
        if again is None:
            return super()._parts()
        self._recall = recall
        return again

    def _take(self, parts: list[Part], clip: Tensor | None) -> list[Tensor]:
        if self._recall is None:
            self._find_states(parts)
        if torch.compiler.is_compiling():
            return super()._take(parts, clip)
        record: list[Tensor | None] = [None] * len(parts)
        for device in {part.device for part in parts}:
            mine = [i for i, part in enumerate(parts) if part.device == device and part.fused]
            if mine:
                for i, each in zip(mine, self._step_fused(device, [parts[i] for i in mine], clip), strict=True):
                    record[i] = each
        rest = [i for i, columns in enumerate(record) if columns is None]
        if rest:
            for i, columns in zip(rest, super()._take([parts[i] for i in rest], clip), strict=True):
                record[i] = columns
        self._remember(parts, all_fused=not rest)
        return [columns for columns in record if columns is not None]

    def _find_states(self, parts: list[Part]) -> None:
        self._init_group()
        for part in parts:
            part.states = [self.state[p] for p in part.params]

    def _step_fused(self, device: torch.device, parts: list[Part], clip: Tensor | None) -> list[Tensor | None]:
        launches = self._launches(device)
        try:
            columns: list[Tensor | None] = launches.step(parts, clip)
        except RuntimeError:
            if self._recall is None:
                raise
            # Only states that were checked again have followed their parameters into another memory format.
            self._recall = None
            self._find_states(parts)
            columns = launches.step(parts, clip)
        return columns

    def _remember(self, parts: list[Part], all_fused: bool) -> None:
        if not all_fused or any(part.device.type != "cpu" or part.mesh is not None for part in parts):
            self._recall = None
        elif self._recall is None:
            self._recall = Recall(self.param_groups, self.state, parts)
        if self._recall is not None:
            self._recall.forget()

    def _layer_names(self, parts: list[Part]) -> list[str]:
        return super()._layer_names(parts) if self._recall is None else self._recall.layers

    def _launches(self, device: torch.device) -> Any:
        """Returns the fused steps of this optimizer on a device."""
        if device not in self._fused:
            self._fused[device] = kernels_for(device.type).Launches(self._state_names)
        return self._fused[device]

    def _updates(self, parts: list[Part], clip: Tensor | None) -> None:
        for part in parts:
            dtype = computed_in(part.dtype)
            if part.dtype != dtype and part.group["master_weights"]:
                part.weights = self._local_state(part, "master")
            else:
                part.weights = [x.to(dtype) for x in part.locals]
            self._update(part, clip)

    def _init_group(self) -> None:
        """Makes the missing states of all groups.

        torch.compile knows this name, and calls the method instead of tracing it; it would miss a state made by a
        second call.
        """
        for group, p in [(each, p) for each in self.param_groups for p in each["params"]]:
            if p.grad is None:
                continue
            state = self.state[p]
            missing = [name for name in self._state_names if name not in state]
            if not missing:
                self._fit(p, state)
            elif len(missing) < len(self._state_names):
                raise RuntimeError(
                    f"the state of {self._name_of(p)} lacks {', '.join(missing)}: clear it to begin anew; "
                    "no parameter and no state was changed"
                )
            else:
                if _capturing():
                    raise RuntimeError(
                        "a CUDA graph is being captured, and would make the states anew at every replay: "
                        "take a step before"
                    )
                state.update(self._new_state(group, p))  # others may keep something of theirs in it
            if group["master_weights"] and "master" not in state and p.dtype != computed_in(p.dtype):
                state["master"] = p.to(computed_in(p.dtype))

    def _fit(self, p: Tensor, state: dict[str, Tensor]) -> None:
        """Gives the state the parameter's present layout; RuntimeError if the parameter has another dtype or shape."""
        dtype, shape, stride, sharded = computed_in(p.dtype), p.shape, p.stride(), is_sharded(p)
        for key, value in state.items():
            if key == "step" or (key != "master" and key not in self._state_names):
                continue
            if value.dtype != dtype or value.shape != shape or value.device != p.device:
                raise RuntimeError(
                    f"{key} of {self._name_of(p)} is {value.dtype} of shape {tuple(value.shape)}, but the parameter, "
                    f"changed since, needs {dtype} of shape {tuple(shape)}; no parameter and no state was changed. "
                    "Make a new optimizer, and load this one's state_dict into it where only the dtype is another"
                    if value.device == p.device
                    else f"{key} of {self._name_of(p)} is on {value.device}, but the parameter is on {p.device}; "
                    f"no parameter and no state was changed. Make a new optimizer, and load this one's "
                    "state_dict into it"
                )
            if value.stride() != stride or sharded:  # of a sharded tensor the local strides count
                state[key] = laid_out_like(p, value)

    def _name_of(self, p: Tensor) -> str:
        groups = enumerate(self.param_groups)
        names = (pair for i, group in groups for pair in zip(parameter_names(i, group), group["params"], strict=True))
        return next(name for name, q in names if q is p)

    def _local_state(self, part: Part, name: str) -> list[Tensor]:
        return [local(state[name]) for state in part.states]

    def _gate(self, parts: list[Part]) -> tuple[bool, Tensor | None]:
        if any(part.device.type == "cuda" and not part.group["capturable"] for part in parts) and _capturing():
            raise RuntimeError("a CUDA graph is being captured, but a parameter group has capturable=False")
        bound = clip_bound(self.max_grad_norm)
        verdict = look(
            parts,
            parts[0].device if parts else self._meeting_place(),
            max_grad_norm=bound,
            nonfinite=self.nonfinite,
            process_group=self.process_group,
            glance=self._glance(parts, bound),
        )
        names = [name for part in parts for name in part.names]
        self._seen.nonfinite_layers = [names[i] for i in verdict.nonfinite]
        if not verdict.finite:
            if self._recall is not None:
                self._recall.forget()
            if self.nonfinite == "raise":
                where = ", ".join(self.nonfinite_layers) or "parameters of another rank"
                raise RuntimeError(f"non-finite gradient in {where}; no parameter and no state was changed")
            self._seen.skipped_steps += 1
        if self.gradient_scale == 1.0 or not parts:
            return verdict.finite, verdict.clip
        device = parts[0].device
        scale = torch.full((), self.gradient_scale, dtype=accumulator(device), device=device)
        return verdict.finite, scale if verdict.clip is None else scale * verdict.clip

    def _meeting_place(self) -> torch.device:
        """Returns the device on which a rank without gradients, or without parameters, takes part in the gate."""
        device = next((p.device for group in self.param_groups for p in group["params"]), None)
        # For a group on all devices, `get_backend` does not name NCCL.
        group = self.process_group
        if (
            device is None
            and group is not None
            and "nccl" in dist.get_backend_config(group)
            and torch.cuda.is_available()
        ):
            device = torch.device("cuda", torch.cuda.current_device())
        return device or torch.device("cpu")

    def _glance(self, parts: list[Part], bound: float | None) -> tuple[Tensor, Tensor] | None:
        """Returns |g|^2 of every parameter and the verdict on all of them, if one launch gives both."""
        if (bound is None and self.nonfinite == "propagate") or self.process_group is not None:
            return None
        if torch.compiler.is_compiling() or not all(part.fused for part in parts):
            return None
        devices = {part.device for part in parts}
        look_at_all = getattr(self._launches(devices.pop()), "look", None) if len(devices) == 1 else None
        return look_at_all(parts, self.state, bound) if look_at_all is not None else None

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        check_speed(group)
        if group["capturable"] and self.nonfinite != "propagate":
            raise ValueError(
                f"nonfinite={self.nonfinite!r} reads a flag on the host, which capturable=True forbids; use 'propagate'"
            )

    def _check_loaded(self, state_dict: dict[str, Any]) -> None:
        super()._check_loaded(state_dict)
        states, names = state_dict["state"], set(self._state_names)
        known = any(names & state.keys() for state in states.values() if isinstance(state, Mapping))
        for index, (group, saved) in enumerate(zip(self.param_groups, state_dict["param_groups"], strict=False)):
            for name, p, key in zip(parameter_names(index, group), group["params"], saved["params"], strict=False):
                # Others may keep data for a parameter that was never stepped. If all of the state is theirs, it is not
                # checked.
                if not isinstance(states.get(key, {}), Mapping):
                    raise ValueError(f"the state of {name} is {states[key]!r}, not a dict")
                theirs = bool(known and states.get(key) and not names & states[key].keys())
                if key in states and not theirs:
                    check_state(name, p, states[key], self._state_names)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads as PyTorch does, except that the fp32 state of narrow parameters stays fp32.

        Raises:
            ValueError: a state is missing, or has another shape or layout than its parameter, or a group has a value
                that no group can have; nothing was loaded.
        """
        with exact_state(self, (*self._state_names, "master"), self._check_loaded):
            super().load_state_dict(state_dict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._fused, self._recall = {}, None
        _LIVING.add(self)

    def __getstate__(self) -> dict[str, Any]:
        if self.process_group is not None:
            raise TypeError(
                "process_group is a connection of this process, which cannot be copied or pickled: save state_dict(), "
                "or set the optimizer's process_group to None, copy it, and set it again on both"
            )
        own = ("max_grad_norm", "nonfinite", "process_group", "_seen")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own}}


def _capturing() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
