"""A run's settings in other people's loops: from the reference, and as names and numbers that every logger takes."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from anybatch.integrations.checks import refuse_other_states, shown
from anybatch.optim import Layerwise, param_groups
from anybatch.scaling import Reference, Scaled
from anybatch.scaling.schedule import count


def scaled_run(owner: Any, reference: Reference, batch_size: int) -> Scaled:
    """Returns the reference at a batch; `recorded(owner, ...)` reports it from then on.

    Raises:
        ValueError: it is no reference, or it refuses the batch.
    """
    if not isinstance(reference, Reference):
        raise ValueError(f"reference={shown(reference)} is not an anybatch.Reference: Reference(32, lr=..., ...)")
    run = reference.at(batch_size)
    owner.anybatch_run = {
        "warmup_steps": run.warmup_steps,
        "num_steps": run.num_steps,
        "reference_batch_size": reference.batch_size,
        "reference_lr": reference.lr,
        f"rule/{reference.rule}": 1,
    }
    return run


def recorded(owner: Any, optimizer: Optimizer) -> dict[str, float]:
    """Returns the settings as names and numbers, for every logger: settings/lr, settings/optimizer/LAMB, ..."""
    known: dict[str, float] = dict(getattr(owner, "anybatch_run", {}))
    if "warmup_steps" in known:
        known["lr"] = max(float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups)
    name = type(optimizer).__name__
    base = f"-{type(optimizer.base).__name__}" if isinstance(optimizer, Layerwise) else ""
    return {f"settings/{key}": float(value) for key, value in {f"optimizer/{name}{base}": 1, **known}.items()}


def made(
    kind: Callable[..., Any], model: nn.Module, settings: Mapping[str, Any], weight_decay: float, layerwise: bool
) -> Optimizer:
    """Makes an optimizer over `param_groups(model)` that loads no other optimizer's state."""
    chosen = dict(settings)
    optimizer: Optimizer = kind(param_groups(model, chosen.pop("weight_decay", weight_decay)), **chosen)
    optimizer = Layerwise(optimizer) if layerwise else optimizer
    refuse_other_states(optimizer)
    return optimizer


def accumulation(batch_size: int, micro_batch_size: int, processes: int, described: str) -> int:
    """Returns the micro-batches of a step on each process; ValueError if the batch is no multiple of one on each."""
    steps, rest = divmod(count("batch_size", batch_size, 1), count("micro_batch_size", micro_batch_size, 1) * processes)
    if rest or not steps:
        raise ValueError(
            f"batch_size={batch_size} is not a multiple of {micro_batch_size * processes}, which is {described}"
        )
    return steps


def copies(parallel: Any) -> int:
    """Returns the number of processes that see the same examples, by Accelerate's parallelism_config."""
    found = 1
    for name in ("tp_size", "cp_size", "sp_size"):
        found *= int(getattr(parallel, name, 1) or 1)
    return found
