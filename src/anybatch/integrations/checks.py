"""Checks a run's settings against the running loop: checkpoint, batch, schedule, parallelism. All raise ValueError."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

# Keys that distinguish groups of one optimizer from those of another.
_MARKS = ("phi", "betas", "momentum", "amsgrad")
# The number of steps in which a scheduler shows whether it moves with the optimizer.
_STEPS_TO_MOVE = 8


class Batch:
    """The global batch, checked against the model's inputs and a checkpoint's batch.

    Args:
        size: the given size; None: `passes` times the first pass.
        micro_batch_size: the given size of a pass; None: not checked.
        passes: the passes of a step, over all ranks.
    """

    def __init__(self, size: int | None, micro_batch_size: int | None, passes: int) -> None:
        self.size, self._told, self._passes = size, micro_batch_size, passes
        self._before: int | None = None
        self._odd_passes = 0

    def resumed(self, before: int | None) -> None:
        """Compares with a checkpoint's batch, now or when the run's batch is known."""
        self._before = before
        if before and self.size and before != self.size:
            raise ValueError(
                f"the checkpoint was made at a global batch of {before}, and this run has {self.size}: a resumed run "
                f"keeps its learning rate and its count of steps. Resume at {before}, or start a new run from the "
                "checkpoint's model"
            )

    def saw(self, sizes: Sequence[int]) -> None:
        """Checks the first dimensions of a pass's inputs; one pass of the given size is enough."""
        if self.size is None and sizes:
            self.size = sizes[0] * self._passes
            self.resumed(self._before)
        # A collator that packs examples into one row does not show their number.
        if self._told is None or not sizes or sizes[0] == 1:
            return
        # The last batch of an epoch may be smaller.
        self._odd_passes += 1
        if self._told in sizes:
            self._told = None
        elif self._odd_passes == 2:
            raise ValueError(
                f"the model is given {sizes[0]} examples at once, not micro_batch_size={self._told}, so that the "
                f"global batch is not {self.size}: set the DataLoader's batch_size to {self._told}, or say the real one"
            )


class Moves:
    """Checks that a LambdaLR is stepped with the optimizer's first steps; other schedulers may step once an epoch.

    Args:
        scheduler: a scheduler, or Accelerate's wrapper of one.
        turns: steps of the scheduler for one step of the optimizer.
    """

    def __init__(self, scheduler: Any, optimizer: Optimizer, turns: int) -> None:
        inner = getattr(scheduler, "scheduler", scheduler)
        self._scheduler = inner if isinstance(inner, LambdaLR) else None
        self._turns, self._steps = turns, 0
        self._first: int | None = None
        # Steps that a GradScaler skips move no scheduler.
        self.hooks = [] if self._scheduler is None else [optimizer.register_step_post_hook(self._stepped)]

    def restart(self) -> None:
        """Starts again; called after a checkpoint was loaded."""
        self._first = None

    def check(self) -> None:
        """Checks before a gradient is used: a scheduler has then moved as often as the optimizer, or once less."""
        if self._scheduler is None or self._steps > _STEPS_TO_MOVE:
            return
        turn = int(self._scheduler.last_epoch)
        if self._first is None:
            self._first, self._steps = turn, 0
        moved = (turn - self._first) // self._turns
        if self._steps - moved >= 2:
            raise ValueError(
                f"the scheduler has moved {moved} times in {self._steps} steps: warm-up and decay count steps, not "
                "epochs; call scheduler.step() after each optimizer.step()"
            )

    def _stepped(self, *_: Any) -> None:
        self._steps += 1


class ScaledLR(LambdaLR):
    """A schedule that refuses the state of a run with another learning rate."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads as LambdaLR does; ValueError for other learning rates."""
        check_rates(state_dict.get("base_lrs", self.base_lrs), self.base_lrs)
        super().load_state_dict(state_dict)


def check_rates(there: Sequence[Any], here: Sequence[Any]) -> None:
    """Raises ValueError if a checkpoint's peak learning rates, which a resumed run keeps, are not this run's."""
    pairs = list(zip(map(float, there), map(float, here), strict=False))
    if differs := next(((old, new) for old, new in pairs if abs(old - new) > 1e-6 * abs(new)), None):
        raise ValueError(
            f"the checkpoint's learning rate is {differs[0]:.4g}, this run's {differs[1]:.4g}, and a resumed run keeps "
            "the checkpoint's, with its count of steps: resume at the batch and rate that it was made with, or start "
            "a new run from the checkpoint's model"
        )


def check_deepspeed(config: Mapping[str, Any], batch_size: int, micro_batch_size: int, steps: int) -> None:
    """Raises ValueError for a DeepSpeed configuration with another batch, or one that leaves the batch open."""
    whole = config.get("train_batch_size")
    for name, value, needed in (
        ("train_batch_size", batch_size, False),
        ("train_micro_batch_size_per_gpu", micro_batch_size, whole != batch_size),
        ("gradient_accumulation_steps", steps, steps != 1),
    ):
        there = config.get(name, None if needed else "auto")
        if there not in ("auto", value):
            found = "nothing" if there is None else repr(there)
            raise ValueError(
                f"{name} is {found} in the DeepSpeed configuration, but batch_size={batch_size} makes it {value}: "
                f'write "auto"'
            )


def check_fsdp(version: Any, remedy: str) -> None:
    """Raises ValueError for FSDP1."""
    if str(version) == "1":
        raise ValueError(f"FSDP1 flattens the parameters, so that layers have no norms of their own: set {remedy}")


def check_noise_every(noise_every: Any) -> None:
    """Raises ValueError unless it is None or an int of at least 1."""
    known = isinstance(noise_every, int) and not isinstance(noise_every, bool)
    if noise_every is not None and not (known and noise_every >= 1):
        raise ValueError(f"noise_every={noise_every!r} is not an int of at least 1, or None for never")


def shown(value: Any) -> str:
    """Returns the start of a value's repr, on one line."""
    return f"{' '.join(repr(value).split()):.60}"


def check_kind(kind: Any) -> None:
    """Raises ValueError for a value that makes no optimizer, such as a name."""
    if not callable(kind):
        raise ValueError(f"kind={shown(kind)} is not an optimizer's class, such as anybatch.LAMB")


def refuse_other_states(optimizer: Optimizer) -> None:
    """Refuses states of another optimizer from now on: their learning rate and moments would be used unnoticed."""

    def check(_: Optimizer, state_dict: dict[str, Any]) -> None:
        there, here = _marks(state_dict["param_groups"]), _marks(optimizer.param_groups)
        if there != here:
            raise ValueError(
                f"the checkpoint is another optimizer's: its groups have {', '.join(there) or 'none of ' + str(_MARKS)}"
                f", those of {type(optimizer).__name__} have {', '.join(here)}. Resume with the optimizer it was made "
                "with, or start a new run from the checkpoint's model"
            )

    # Before others fill in what the saved groups lack.
    if isinstance(optimizer, Optimizer):
        optimizer.register_load_state_dict_pre_hook(check, prepend=True)


def _marks(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    return [mark for mark in _MARKS if any(mark in group for group in groups)]


def unwrapped(optimizer: Any) -> Optimizer:
    """Returns the optimizer inside Accelerate's or Lightning's wrapper."""
    while not hasattr(optimizer, "trust_ratios") and isinstance(
        inner := getattr(optimizer, "optimizer", None), Optimizer
    ):
        optimizer = inner
    return optimizer  # type: ignore[no-any-return]


def check_parameters(model: nn.Module, optimizer: Optimizer) -> None:
    """Raises ValueError if the optimizer holds none of the model's parameters."""
    own = set(model.parameters())
    held = [p for group in optimizer.param_groups for p in group["params"]]
    if not own.intersection(held):
        raise ValueError(
            f"the optimizer holds {len(held)} parameters, none of them the model's: it was made before the model was "
            "wrapped, sharded or replaced; make it afterwards"
        )
