"""A run's settings in somebody else's loop: from the reference, held to the real batch, kept when it is resumed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from anybatch.optim import Layerwise, param_groups
from anybatch.scaling import Reference, Scaled

# What tells groups of one optimizer from those of another.
_MARKS = ("phi", "betas", "momentum", "amsgrad")
_FLAT = "FSDP1 flattens the parameters, so that layers have no norms of their own: set {}"


def scaled_run(owner: Any, reference: Reference, batch_size: int) -> Scaled:
    """The reference at a batch; `recorded(owner, ...)` tells it from then on.

    Raises:
        ValueError: it is no reference, or refuses the batch.
    """
    if not isinstance(reference, Reference):
        raise ValueError(f"reference={reference!r:.60} is not an anybatch.Reference: Reference(32, lr=..., ...)")
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
    """The settings as names and numbers, which every logger takes: settings/lr, settings/optimizer/LAMB, ..."""
    known: dict[str, float] = dict(getattr(owner, "anybatch_run", {}))
    if "warmup_steps" in known:
        known["lr"] = max(float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups)
    name = type(optimizer).__name__
    base = f"-{type(optimizer.base).__name__}" if isinstance(optimizer, Layerwise) else ""
    return {f"settings/{key}": float(value) for key, value in {f"optimizer/{name}{base}": 1, **known}.items()}


def made(
    kind: Callable[..., Any], model: nn.Module, settings: Mapping[str, Any], weight_decay: float, layerwise: bool
) -> Optimizer:
    """An optimizer over `param_groups(model)` that loads no other optimizer's state."""
    chosen = dict(settings)
    optimizer: Optimizer = kind(param_groups(model, chosen.pop("weight_decay", weight_decay)), **chosen)
    optimizer = Layerwise(optimizer) if layerwise else optimizer
    refuse_other_states(optimizer)
    return optimizer


def check_kind(kind: Any) -> None:
    """Raises ValueError for what makes no optimizer, such as a name."""
    if not callable(kind):
        raise ValueError(f"kind={kind!r:.60} is not an optimizer's class, such as anybatch.LAMB")


def refuse_other_states(optimizer: Optimizer) -> None:
    """From now on a state of another optimizer raises ValueError; its rate and moments would be taken over unseen."""

    def check(_: Optimizer, state_dict: dict[str, Any]) -> None:
        there, here = _marks(state_dict["param_groups"]), _marks(optimizer.param_groups)
        if there != here:
            raise ValueError(
                f"the checkpoint is another optimizer's: its groups have {', '.join(there) or 'none of ' + str(_MARKS)}"
                f", those of {type(optimizer).__name__} have {', '.join(here)}. Resume with the optimizer it was made "
                "with, or start a new run from the checkpoint's model"
            )

    # Before others fill in what the saved groups lack.
    optimizer.register_load_state_dict_pre_hook(check, prepend=True)


def _marks(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    return [mark for mark in _MARKS if any(mark in group for group in groups)]


class ScaledLR(LambdaLR):
    """A schedule that refuses the state of a run with another learning rate."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads as LambdaLR does; ValueError for other rates."""
        check_rates(state_dict.get("base_lrs", self.base_lrs), self.base_lrs)
        super().load_state_dict(state_dict)


def check_rates(there: Sequence[Any], here: Sequence[Any]) -> None:
    """Raises ValueError if a checkpoint's peak rates, which a resumed run keeps, are not this run's."""
    pairs = list(zip(map(float, there), map(float, here), strict=False))
    if differs := next(((old, new) for old, new in pairs if abs(old - new) > 1e-6 * abs(new)), None):
        raise ValueError(
            f"the checkpoint's learning rate is {differs[0]:.4g}, this run's {differs[1]:.4g}, and a resumed run keeps "
            "the checkpoint's, with its count of steps: resume at the batch and rate that it was made with, or start "
            "a new run from the checkpoint's model"
        )


def accumulation(batch_size: int, micro_batch_size: int, processes: int, described: str) -> int:
    """Micro-batches of a step on each process; ValueError if the batch is no multiple of one on every process."""
    steps, rest = divmod(batch_size, micro_batch_size * processes)
    if rest or not steps:
        raise ValueError(
            f"batch_size={batch_size} is not a multiple of {micro_batch_size * processes}, which is {described}"
        )
    return steps


def copies(parallel: Any) -> int:
    """Processes that see the same examples, by Accelerate's parallelism_config."""
    found = 1
    for name in ("tp_size", "cp_size", "sp_size"):
        found *= int(getattr(parallel, name, 1) or 1)
    return found


def check_deepspeed(config: Mapping[str, Any], batch_size: int, micro_batch_size: int, steps: int) -> None:
    """Raises ValueError for a DeepSpeed configuration with another batch, or one that leaves the batch open."""
    whole = config.get("train_batch_size")
    for name, value, needed in (
        ("train_batch_size", batch_size, False),
        ("train_micro_batch_size_per_gpu", micro_batch_size, whole != batch_size),
        ("gradient_accumulation_steps", steps, steps != 1),
    ):
        there = config.get(name, "nothing" if needed else "auto")
        if there not in ("auto", value):
            raise ValueError(
                f"{name} is {there} in the DeepSpeed configuration, but batch_size={batch_size} makes it {value}: "
                f'write "auto"'
            )


def check_fsdp(version: Any, remedy: str) -> None:
    """Raises ValueError for FSDP1."""
    if version is not None and int(version) == 1:
        raise ValueError(_FLAT.format(remedy))


def check_noise_every(noise_every: Any) -> None:
    """Raises ValueError unless it is None or an int of at least 1."""
    if noise_every is not None and (not isinstance(noise_every, int) or noise_every < 1):
        raise ValueError(f"noise_every={noise_every!r} is not an int of at least 1, or None for never")
