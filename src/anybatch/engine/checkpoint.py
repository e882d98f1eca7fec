"""A training state on disk: atomic, checksummed, without pickle, and readable by any number of ranks.

    checkpoints/step-00000100/
        model-00000.safetensors      parameters and buffers, tied ones once: all of them, or rank 0's rows of each
        optimizer-00000.safetensors  the tensors of the optimizer's state, named "<parameter number>.<state name>"
        part-00000.json              SHA-256 of these two, and where their rows belong; a part a rank that holds shards
        state.json                   step, phase, what the run depends on, the optimizer's groups and plain values,
                                     the SHA-256 of every part's description, and its own

The random state is not saved because there is none: every draw is keyed by the seed and the step.
"""

import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from anybatch.engine.loss_scale import LossScale
from anybatch.engine.pieces import Held, Parts, held_by, write_part
from anybatch.engine.ranks import Ranks
from anybatch.errors import InputError
from anybatch.files import named_errors, read_object, remove_leftovers, reveal, scratch_folder, sha256, told, write_json

FORMAT = 2


@dataclass(frozen=True)
class Retention:
    """How many of the newest checkpoints are kept, and how many with the lowest held-out loss."""

    last: int = 2
    best: int = 0


@dataclass(frozen=True)
class Content:
    """The content of a checkpoint: this rank's tensors, and the rest of state.json."""

    tensors: Held
    state: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.state["step"])


def content(
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Mapping[str, str],
    ranks: Ranks,
    *,
    phase: int = 0,
    held_out_loss: float | None = None,
    loss_scale: LossScale | None = None,
) -> Content:
    """Returns what is to be saved after `step`; its tensors are the model's and the optimizer's, not copies.

    Args:
        inputs: fingerprints of what the run depends on; a resumed run must have the same.
    """
    state_dict = optimizer.state_dict()
    values = {f"{index}.{name}": value for index, own in state_dict.pop("state").items() for name, value in own.items()}
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    plain = {name: value for name, value in values.items() if name not in tensors}
    state = {
        "format": FORMAT,
        "step": step,
        "phase": phase,
        "inputs": dict(inputs),
        "held_out_loss": held_out_loss,
        "ranks": ranks.size,
        "loss_scale": None if loss_scale is None else loss_scale.state,
        "optimizer": {"state": plain, **copy.deepcopy(state_dict)},
    }
    return Content(held_by(ranks.rank, {"model": named_tensors(model), "optimizer": tensors}), state)


def write(folder: Path, content: Content, ranks: Ranks, retention: Retention = Retention()) -> None:
    """Writes `folder/step-<step>`, each rank its part; then removes what `retention` does not keep, and any later one.

    A later one is damaged: otherwise the run would have continued from it.

    Raises:
        OSError: on every rank alike; nothing is left of the checkpoint, and earlier ones stay.
    """
    target = folder / f"step-{content.step:08d}"
    made = _alike(ranks, lambda: _make_scratch(target), "making room for a checkpoint", only_leader=True)
    scratch = cast(Path, ranks.from_leader(made, "making room for a checkpoint"))
    try:
        _alike(ranks, lambda: write_part(scratch, ranks.rank, content.tensors), "writing a checkpoint")
        _alike(ranks, lambda: _complete(scratch, target, content.state), "showing a checkpoint", only_leader=True)
    except BaseException as error:
        if ranks.leader:
            shutil.rmtree(scratch, ignore_errors=True)
        if isinstance(error, OSError):
            with named_errors(target, scratch):
                raise
        raise
    if ranks.leader:
        _prune(folder, target, retention)


def saved(folder: Path) -> list[Path]:
    """Returns the checkpoints in `folder`, newest first."""
    return sorted((path for path in folder.glob("step-*") if path.is_dir()), reverse=True)


def load_newest(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Mapping[str, str],
    ranks: Ranks,
    only: str | None = None,
    loss_scale: LossScale | None = None,
) -> tuple[int, list[str]]:
    """Loads the newest valid checkpoint, or the one called `only`, into `model` and `optimizer`.

    Any number of ranks may have written it.

    Returns:
        (steps done, one line about each damaged checkpoint that was skipped); step 0 if there is none at all.

    Raises:
        InputError: all checkpoints are damaged; or the run depends on something else.
    """
    problems: list[str] = []
    found = [path.name for path in saved(folder) if only in (None, path.name)] if ranks.leader else []
    names = ranks.from_leader(found, "finding checkpoints")
    for name in names:
        checkpoint = folder / name
        state: dict[str, Any] = {}
        refused, damage = None, None
        try:
            state = _read_state(checkpoint)
            refused = _refusal(checkpoint, state["inputs"], inputs)
            if refused is None:
                Parts(checkpoint).verify(slice(ranks.rank, None, ranks.size))
        except PermissionError as error:
            refused = f"{error.filename or checkpoint}: may not be read; change its permissions"
        # A damaged file can fail in any way; the remedy is always the previous checkpoint.
        except Exception as error:
            damage = _one_line(error)
        if refused := ranks.problem(refused, "reading a checkpoint"):
            raise InputError(refused)
        damage = ranks.problem(damage, "reading a checkpoint")
        if damage is None:
            try:
                _load(checkpoint, state, model, optimizer)
            except Exception as error:
                damage = _one_line(error)
            damage = ranks.problem(damage, "loading a checkpoint")
        if damage is None:
            if loss_scale is not None and (saved_scale := state.get("loss_scale")):
                loss_scale.state = saved_scale
            return int(state["step"]), problems
        problems.append(f"{checkpoint}: damaged, passed over: {damage}")
    if problems:
        raise InputError(f"{folder}: no sound checkpoint to resume from ({'; '.join(problems)})")
    return 0, problems


def adopt(checkpoint: Path, folder: Path, inputs: Mapping[str, str]) -> int:
    """Copies a checkpoint into the checkpoints `folder` of another run, which continues from it by its own recipe.

    Args:
        inputs: the fingerprints of the other run, by name; those not given stay.

    Returns:
        The step of the checkpoint.

    Raises:
        InputError: the checkpoint is damaged.
    """
    try:
        state = _read_state(checkpoint)
        target = folder / checkpoint.name
        scratch = _make_scratch(target)
        shutil.copytree(checkpoint, scratch, dirs_exist_ok=True)
        _complete(scratch, target, {**state, "inputs": {**state["inputs"], **inputs}})
    except (KeyError, ValueError) as error:
        raise InputError(f"{checkpoint}: damaged: {_one_line(error)}") from None
    return int(state["step"])


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Returns parameters, and the buffers of the state, by name; tied ones once."""
    persistent = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in persistent}
    return {**dict(model.named_parameters()), **buffers}


def _make_scratch(target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent)
    return scratch_folder(target)


def _complete(scratch: Path, target: Path, state: dict[str, Any]) -> None:
    """Shows the parts in `scratch`, with their state, as the checkpoint `target`."""
    parts = {file.name: sha256(file) for file in sorted(scratch.glob("part-*.json"))}
    state = {**state, "parts": parts}
    write_json(scratch / "state.json", {**state, "sha256": _fingerprint(state)})
    reveal(scratch, target)


def _prune(folder: Path, newest: Path, retention: Retention) -> None:
    earlier = [checkpoint for checkpoint in saved(folder) if checkpoint.name <= newest.name]
    kept = set(earlier[: retention.last])
    if retention.best:
        losses = {checkpoint: _held_out_loss(checkpoint) for checkpoint in earlier}
        known = [(loss, checkpoint) for checkpoint, loss in losses.items() if loss is not None]
        kept.update(checkpoint for _, checkpoint in sorted(known)[: retention.best])
    for checkpoint in saved(folder):
        if checkpoint not in kept:
            shutil.rmtree(checkpoint, ignore_errors=True)


def _held_out_loss(checkpoint: Path) -> float | None:
    try:
        loss = _read_state(checkpoint)["held_out_loss"]
    # A checkpoint that cannot be read is not among the best; loading decides whether it is valid.
    except Exception:
        return None
    return loss if isinstance(loss, float) else None


def _read_state(checkpoint: Path) -> dict[str, Any]:
    state = read_object(checkpoint / "state.json")
    if state["format"] != FORMAT:
        raise InputError(f"format {state['format']}, this version reads {FORMAT}")
    expected = state.pop("sha256")
    if _fingerprint(state) != expected:
        raise InputError("state.json does not match its checksum")
    for name, part in state["parts"].items():
        if sha256(checkpoint / name) != part:
            raise InputError(f"{name} does not match its checksum")
    if set(state["parts"]) != {path.name for path in checkpoint.glob("part-*.json")}:
        raise InputError("it has parts that do not belong to it")
    if state["step"] != int(checkpoint.name.removeprefix("step-")):
        raise InputError(f"step {state['step']} does not belong to its folder")
    return state


def _refusal(checkpoint: Path, found: Mapping[str, str], expected: Mapping[str, str]) -> str | None:
    for name, value in expected.items():
        if found.get(name) != value:
            return (
                f"{checkpoint}: belongs to a run with another {name} than this one has; put that back, or choose "
                "another --run"
            )
    return None


@torch.no_grad()
def _load(checkpoint: Path, state: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    parts = Parts(checkpoint)
    wanted = named_tensors(model)
    if differing := parts.names("model") ^ set(wanted):
        raise ValueError(f"{min(differing)} is in the checkpoint or in the model, but not in both")
    params = [p for group in optimizer.param_groups for p in group["params"]]
    values = dict(state["optimizer"]["state"])
    for key in parts.names("optimizer"):
        p = params[int(key.partition(".")[0])]
        values[key] = _state_like(parts, key, p)
    optimizer.load_state_dict(_join(values, state["optimizer"]))
    for name, tensor in wanted.items():
        tensor.copy_(parts.like("model", name, tensor))


def _state_like(parts: Parts, key: str, p: Tensor) -> Tensor:
    """Returns a tensor of the optimizer's state: cut like its parameter if it has its shape, otherwise whole."""
    if isinstance(p, DTensor) and len(shape := parts.shape("optimizer", key)) and shape == tuple(p.shape):
        return parts.like("optimizer", key, p)
    return parts.whole("optimizer", key)


def _join(values: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in values.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    rest = {name: value for name, value in plain.items() if name != "state"}
    # JSON has no tuples; a group's options such as betas are tuples, its lists of parameters and names are not.
    lists = ("params", "param_names")
    rest["param_groups"] = [
        {
            name: tuple(value) if isinstance(value, list) and name not in lists else value
            for name, value in group.items()
        }
        for group in rest["param_groups"]
    ]
    return {"state": state, **rest}


def _fingerprint(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _alike(ranks: Ranks, call: Callable[[], Path | None], what: str, only_leader: bool = False) -> Path | None:
    """Runs `call` on every rank, or on rank 0 alone; if it raises OSError on one, all ranks do."""
    result, problem = None, None
    try:
        if ranks.leader or not only_leader:
            result = call()
    except OSError as error:
        if ranks.size == 1:
            raise
        problem = _one_line(error)
    if problem := ranks.problem(problem, what):
        raise OSError(problem)
    return result


def _one_line(error: BaseException) -> str:
    return " ".join((told(error) if isinstance(error, OSError) else str(error)).split()) or repr(error)
