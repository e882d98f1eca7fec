"""A training state on disk: atomic, checksummed, and without pickle.

    checkpoints/step-00000100/
        model.safetensors      parameters and buffers; tied ones once
        optimizer.safetensors  the tensors of the optimizer's state, named "<parameter number>.<state name>"
        state.json             step, the optimizer's groups and plain values, sizes and SHA-256 of the other files

The random state is not saved because there is none: every draw is keyed by the seed and the step.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from anybatch.errors import InputError
from anybatch.files import new_folder, read_object, remove_leftovers, sha256, write_json

FORMAT = 1


def save(
    folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, inputs: str, keep_last: int = 2
) -> None:
    """Writes `folder/step-<step>`; then removes all but the `keep_last` newest, and any later one.

    A later one is damaged, or the run would have gone on from it.

    Args:
        inputs: a fingerprint of what the run learns from, which a resumed run must share.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    target = folder / f"step-{step:08d}"
    with replaced_folder(target) as scratch:
        save_model(model, str(scratch / "model.safetensors"))
        tensors, plain = _split(optimizer.state_dict())
        save_file(tensors, scratch / "optimizer.safetensors")
        files = {file.name: sha256(file) for file in sorted(scratch.iterdir())}
        state = {"format": FORMAT, "step": step, "inputs": inputs, "optimizer": plain, "sha256": files}
        write_json(scratch / "state.json", state)
    earlier = [checkpoint for checkpoint in saved(folder) if checkpoint.name <= target.name]
    for checkpoint in saved(folder):
        if checkpoint not in earlier[:keep_last]:
            shutil.rmtree(checkpoint)


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """`new_folder` in the place of what `path` holds, for files that safetensors writes.

    Its own error, which a full disk raises, becomes the system's; and its files, which it keeps to their owner, get the
    permissions of ordinary new ones.
    """
    if path.exists():
        shutil.rmtree(path)
    try:
        with new_folder(path) as scratch:
            yield scratch
            mask = os.umask(0)
            os.umask(mask)
            for file in scratch.iterdir():
                file.chmod(0o666 & ~mask)
    except SafetensorError as error:
        raise OSError(f"{path}: could not be written: {error}") from None


def saved(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, newest first."""
    return sorted((path for path in folder.glob("step-*") if path.is_dir()), reverse=True)


def load_newest(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, inputs: str) -> tuple[int, list[str]]:
    """Loads the newest sound checkpoint into `model` and `optimizer`.

    Returns:
        (steps done, one line about each damaged checkpoint that was passed over); step 0 where there is none at all.

    Raises:
        InputError: there are checkpoints, and all of them are damaged; or the run learned from something else.
    """
    problems: list[str] = []
    for checkpoint in saved(folder):
        try:
            state = _load(checkpoint, model, optimizer)
        except PermissionError as error:
            raise InputError(f"{error.filename or checkpoint}: may not be read; change its permissions") from None
        # A damaged file can fail in any way; whatever it is, the checkpoint before it is the remedy.
        except Exception as error:
            problems.append(f"{checkpoint}: damaged, passed over: {' '.join(str(error).split()) or repr(error)}")
            continue
        if state["inputs"] != inputs:
            raise InputError(
                f"{checkpoint}: was trained on other data, or from another model, than lies there now; "
                "put that back, or choose another --run"
            )
        return state["step"], problems
    if problems:
        raise InputError(f"{folder}: no sound checkpoint to resume from ({'; '.join(problems)})")
    return 0, problems


def _load(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    state = read_object(checkpoint / "state.json")
    if state["format"] != FORMAT:
        raise InputError(f"format {state['format']}, this version reads {FORMAT}")
    for name, expected in state["sha256"].items():
        if sha256(checkpoint / name) != expected:
            raise InputError(f"{name} does not match its checksum")
    optimizer.load_state_dict(_join(load_file(checkpoint / "optimizer.safetensors"), state["optimizer"]))
    load_model(model, str(checkpoint / "model.safetensors"))
    if state["step"] != int(checkpoint.name.removeprefix("step-")):
        raise InputError(f"step {state['step']} does not belong to its folder")
    return state


def _split(state_dict: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, plain = {}, {}
    for index, values in state_dict["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value.contiguous()
            else:
                plain[f"{index}.{name}"] = value
    rest = {name: value for name, value in state_dict.items() if name != "state"}
    return tensors, {"state": plain, **rest}


def _join(tensors: dict[str, Tensor], plain: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**plain["state"], **tensors}.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    rest = {name: value for name, value in plain.items() if name != "state"}
    # JSON has no tuples; a group's options such as betas are, its lists of parameters and of their names are not.
    lists = ("params", "param_names")
    rest["param_groups"] = [
        {
            name: tuple(value) if isinstance(value, list) and name not in lists else value
            for name, value in group.items()
        }
        for group in rest["param_groups"]
    ]
    return {"state": state, **rest}
