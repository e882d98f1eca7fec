"""Accelerate: accumulation and schedule of a loop of one's own from a reference, and what to log of it."""

import functools
from collections.abc import Callable
from typing import Any

from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from anybatch.integrations.watching import Watch
from anybatch.scaling import Reference, Scaled


def scaled(accelerator: Accelerator, reference: Reference, batch_size: int, micro_batch_size: int) -> Scaled:
    """The reference's settings at a global batch, and the accelerator's gradient accumulation set to match.

        global batch = processes x micro_batch_size x accelerator.gradient_accumulation_steps

    Args:
        micro_batch_size: the batch_size of the DataLoader that is prepared. With split_batches it is already shared by
            the processes.

    Raises:
        ValueError: the batch is no multiple of a micro-batch on every process; the accelerator or DeepSpeed's
            configuration has another accumulation; or FSDP1.
    """
    plugin = accelerator.state.fsdp_plugin if hasattr(accelerator.state, "fsdp_plugin") else None
    if plugin is not None and plugin.fsdp_version == 1:
        raise ValueError("FSDP1 flattens the parameters, so that layers have no norms of their own: fsdp_version=2")
    processes = 1 if accelerator.split_batches else accelerator.num_processes
    steps, rest = divmod(batch_size, micro_batch_size * processes)
    if rest or not steps:
        raise ValueError(
            f"batch_size={batch_size} is not a multiple of {micro_batch_size * processes}, which is "
            f"micro_batch_size={micro_batch_size} on {processes} processes"
        )
    deepspeed = getattr(accelerator.state, "deepspeed_plugin", None)
    known = {"Accelerator": accelerator.gradient_accumulation_steps}
    if deepspeed is not None:
        known["DeepSpeed configuration"] = deepspeed.deepspeed_config.get("gradient_accumulation_steps", "nothing")
    for owner, there in known.items():
        if there not in (1 if owner == "Accelerator" else "auto", steps):
            raise ValueError(
                f"gradient_accumulation_steps is {there} in the {owner}, but batch_size={batch_size} takes {steps} of "
                f"{micro_batch_size * processes} examples; leave it out there"
            )
    accelerator.gradient_accumulation_steps = steps
    return reference.at(batch_size)


def scheduler(accelerator: Accelerator, optimizer: Optimizer, run: Scaled) -> LambdaLR:
    """The run's schedule, to be prepared, and stepped after each `optimizer.step()`.

    A prepared scheduler takes a turn for every process; here a step is as many turns, so that the schedule's steps are
    those of the optimizer.
    """
    turns = (
        1 if accelerator.split_batches or not accelerator.step_scheduler_with_optimizer else accelerator.num_processes
    )
    return LambdaLR(optimizer, functools.partial(_by_steps, run.schedule, turns))


def watch(
    accelerator: Accelerator, model: nn.Module, optimizer: Any, scheduler: Any = None, *, noise_every: int | None = 10
) -> Watch:
    """Follows a loop; `accelerator.log(watch.numbers(), step=...)` after a step logs what it saw.

    Args:
        model, optimizer, scheduler: as they were prepared. A scheduler that stands still is an error.
        noise_every: measure the gradient noise every N steps; None: never.

    Raises:
        ValueError: the optimizer holds none of the model's parameters; later, if the scheduler stands still.
    """
    sharded = any(hasattr(p, "placements") for p in model.parameters())
    return Watch(
        model,
        optimizer,
        micro_batches=accelerator.gradient_accumulation_steps * (1 if sharded else accelerator.num_processes),
        noise_every=noise_every,
        ranks="sum" if sharded else None,
        is_last=lambda: bool(accelerator.sync_gradients),
        scheduler=scheduler,
    )


def _by_steps(multiplier: Callable[[int], float], turns: int, turn: int) -> float:
    return multiplier(turn // turns)
