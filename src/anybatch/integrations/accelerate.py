"""Accelerate: accumulation and schedule of your own loop from a reference, and what to log."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from anybatch.integrations import checks
from anybatch.integrations import settings as held
from anybatch.integrations.watching import Watch
from anybatch.scaling import Reference, Scaled

_STATE = "anybatch.json"


def scaled(accelerator: Accelerator, reference: Reference, batch_size: int, micro_batch_size: int) -> Scaled:
    """Returns the reference's settings at a global batch, and sets the accelerator's gradient accumulation to match.

        global batch = processes x micro_batch_size x accelerator.gradient_accumulation_steps

    Args:
        micro_batch_size: the batch_size of the prepared DataLoader; `watch` checks it. With split_batches, it is
            already divided among the processes.

    Raises:
        ValueError: the batch is no multiple of a micro-batch on every process; the accelerator or DeepSpeed's
            configuration has another accumulation or batch; or FSDP1.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    checks.check_fsdp(getattr(plugin, "fsdp_version", None), "fsdp_version=2")
    sharing, processes = _sharing(accelerator)
    described = f"micro_batch_size={micro_batch_size} on {processes} processes"
    steps = held.accumulation(batch_size, micro_batch_size, processes, described)
    deepspeed = getattr(accelerator.state, "deepspeed_plugin", None)
    if deepspeed is not None:
        checks.check_deepspeed(deepspeed.deepspeed_config, batch_size, micro_batch_size // sharing, steps)
    if accelerator.gradient_accumulation_steps not in (1, steps):
        raise ValueError(
            f"gradient_accumulation_steps is {accelerator.gradient_accumulation_steps} in the Accelerator, but "
            f"batch_size={batch_size} takes {steps} of {micro_batch_size * processes} examples; leave it out there"
        )
    accelerator.gradient_accumulation_steps = steps
    accelerator.anybatch_micro_batch_size = micro_batch_size // sharing
    return held.scaled_run(accelerator, reference, batch_size)


def scheduler(accelerator: Accelerator, optimizer: Optimizer, run: Scaled) -> LambdaLR:
    """Returns the run's schedule; prepare it, and step it after each `optimizer.step()`.

    A prepared scheduler takes one turn for every process. Here a step is as many turns, so the schedule's steps are
    the optimizer's. From now on, neither loads the state of another learning rate or another optimizer.
    """
    checks.refuse_other_states(checks.unwrapped(optimizer))
    by_steps = functools.partial(_by_steps, run.schedule, _turns(accelerator))
    return checks.ScaledLR(optimizer, by_steps)


def watch(
    accelerator: Accelerator, model: nn.Module, optimizer: Any, scheduler: Any = None, *, noise_every: int | None = 10
) -> Watch:
    """Follows a loop; `accelerator.log(watch.numbers(), step=...)` after a step logs what it measured.

    `accelerator.save_state` saves its noise window in anybatch.json, and `load_state` continues from it.

    Args:
        model, optimizer, scheduler: the prepared ones. A LambdaLR that does not move with the steps is an error.
        noise_every: measure the gradient noise every N steps; None: never.

    Raises:
        ValueError: noise_every is below 1; the optimizer holds none of the model's parameters; later, if the model's
            batches have another size than `scaled` was given, the scheduler does not move with the steps, or a loaded
            state has another global batch.
    """
    known = getattr(accelerator, "anybatch_micro_batch_size", None)
    sharing, processes = _sharing(accelerator)
    replicas = processes * sharing
    accumulation = accelerator.gradient_accumulation_steps
    watching = Watch(
        model,
        optimizer,
        accumulation=accumulation,
        replicas=replicas,
        batch_size=known and known * replicas * accumulation,
        micro_batch_size=known,
        noise_every=noise_every,
        settings=held.recorded(accelerator, checks.unwrapped(optimizer)),
        is_last=lambda: bool(accelerator.sync_gradients),
        scheduler=scheduler,
        turns=_turns(accelerator) if hasattr(scheduler, "step_with_optimizer") else 1,
    )

    def save(models: Any, weights: Any, folder: str) -> None:
        if accelerator.is_main_process:
            (Path(folder) / _STATE).write_text(json.dumps(watching.state_dict()), encoding="utf-8")

    def load(models: Any, folder: str) -> None:
        if (file := Path(folder) / _STATE).is_file():
            watching.load_state_dict(json.loads(file.read_text(encoding="utf-8")))

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)
    return watching


def _sharing(accelerator: Any) -> tuple[int, int]:
    """Returns the number of processes that share a DataLoader's batch, and of those with separate batches."""
    copies = held.copies(getattr(accelerator, "parallelism_config", None))
    processes = accelerator.num_processes // copies
    return (processes, 1) if accelerator.split_batches else (1, processes)


def _turns(accelerator: Any) -> int:
    if accelerator.split_batches or not accelerator.step_scheduler_with_optimizer:
        return 1
    return int(accelerator.num_processes)


def _by_steps(multiplier: Callable[[int], float], turns: int, turn: int) -> float:
    return multiplier(turn // turns)
