"""Hugging Face Trainer: its arguments from a reference, its optimizer, and trust ratios and noise in its log."""

import inspect
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from accelerate.state import GradientState
from torch import nn
from transformers import TrainerCallback

from anybatch.integrations import checks
from anybatch.integrations import settings as held
from anybatch.integrations.watching import Watch
from anybatch.scaling import Reference, Scaled
from anybatch.scaling.schedule import count

_LOG = logging.getLogger(__name__)
_SCHEDULES = {"polynomial": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
_FIELDS = {"lr": "learning_rate", "eps": "adam_epsilon", "weight_decay": "weight_decay"}
_CUT = ("per_device_train_batch_size", "gradient_accumulation_steps")
# The key in trainer_state.json for the state of the watch.
_STATE = "anybatch"


def scaled_arguments(arguments: Any, reference: Reference, *, batch_size: int | None = None, **settings: Any) -> Any:
    """Returns TrainingArguments at another batch: learning rate, warm-up, steps, schedule, moments and decay.

        global batch = processes x per_device_train_batch_size x gradient_accumulation_steps

    The Trainer will use exactly these. Its warm-up starts from learning rate 0: step t has t/W of the peak, but
    `reference.at(batch).schedule` has (t + 1)/W; from step W on they agree.

    Args:
        arguments: TrainingArguments or a class derived from it, or an object of either.
        reference: the tuned settings, for the global batch.
        batch_size: the global batch; it sets gradient_accumulation_steps. None: the arguments' global batch.
        settings: the fields of a class.

    Returns:
        The arguments: a new object if a class was given, otherwise the given object.

    Raises:
        ValueError: an argument contradicts the reference or the batch; DeepSpeed's configuration leaves the batch
            open; FSDP1; or a schedule that the Trainer does not have.
    """
    _check_arguments(arguments)
    defaults = {each.name: each.default for each in fields(arguments)}
    if isinstance(arguments, type):
        _check_parallel(defaults | settings, batch_size, int(os.environ.get("WORLD_SIZE", "1")))
        given = set(settings)
        arguments = arguments(**settings)
    else:
        if settings:
            raise ValueError(f"{', '.join(settings)}: set in the arguments themselves, or give the class of them")
        _check_parallel(vars(arguments), batch_size, arguments.world_size)
        given = {name for name, default in defaults.items() if getattr(arguments, name, default) != default}
    if arguments.auto_find_batch_size:
        raise ValueError(
            "auto_find_batch_size=True changes the batch after rate and steps have followed from it: leave it out, and "
            "lower per_device_train_batch_size; with batch_size= the accumulation makes up for it"
        )
    if batch_size is not None:
        _accumulate(arguments, batch_size, given)
    run = held.scaled_run(arguments, reference, global_batch_size(arguments))
    if "num_train_epochs" in given:
        raise ValueError(
            f"num_train_epochs={arguments.num_train_epochs:g} has no say: the reference's {run.num_examples:,} "
            f"examples are {run.num_steps:,} steps of {run.batch_size:,}; leave it out, or change num_examples"
        )
    for name, value in _fields(run).items():
        there = getattr(arguments, name)
        if name in given and not _same(there, value):
            raise ValueError(
                f"{name}={_plain(there)!r} contradicts the reference, which gives {_plain(value)!r} at a global batch "
                f"of {run.batch_size:,} ({run.num_examples:,} examples); leave it out, or change the reference"
            )
        setattr(arguments, name, type(there)(value) if name == "lr_scheduler_type" else value)
    # TrainingArguments have no momentum; `optimizer` gives it to the class.
    arguments.anybatch_momentum = run.momentum
    return arguments


def global_batch_size(arguments: Any) -> int:
    """Returns the examples in a step of the Trainer, over all processes and micro-batches."""
    _check_arguments(arguments)
    found: int = _examples_at_once(arguments) * arguments.gradient_accumulation_steps
    return found


def optimizer(
    kind: Callable[..., Any], arguments: Any, *, layerwise: bool = False, **settings: Any
) -> tuple[Callable[[], Callable[..., Any]], dict[str, Any]]:
    """For `Trainer(optimizer_cls_and_kwargs=...)`: LAMB, LARS or any other class over `param_groups` of the model.

    learning_rate, weight_decay and, for optimizers that have them, Adam's betas are the arguments' values when the
    Trainer makes its optimizer. Adam's epsilon is used only if it is not the arguments' default, which is not LAMB's.
    The momentum is the reference's, if it has one.

    Args:
        kind: the class, such as LAMB.
        layerwise: wrap it: `Layerwise(kind(...))`.
        settings: further arguments of the class; they win.

    Raises:
        ValueError: kind is no class; DeepSpeed's configuration has an optimizer; later, if a checkpoint has the state
            of another optimizer.
    """
    checks.check_kind(kind)
    _check_arguments(arguments)
    if "optimizer" in (_object(getattr(arguments, "deepspeed", None)) or {}):
        raise ValueError(
            "the DeepSpeed configuration has an optimizer, which the Trainer would use instead of this one: leave "
            '"optimizer" out there'
        )

    def make(model: nn.Module) -> Any:
        chosen: dict[str, Any] = {"lr": arguments.learning_rate, "weight_decay": arguments.weight_decay}
        if "betas" in inspect.signature(kind).parameters:
            chosen["betas"] = (arguments.adam_beta1, arguments.adam_beta2)
            if arguments.adam_epsilon != {each.name: each.default for each in fields(arguments)}["adam_epsilon"]:
                chosen["eps"] = arguments.adam_epsilon
        if (momentum := getattr(arguments, "anybatch_momentum", None)) is not None:
            chosen["momentum"] = momentum
        return held.made(kind, model, chosen | settings, 0.0, layerwise)

    # The Trainer calls a value that is no class without arguments, and calls its result with the model.
    return lambda: make, {}


def prepare(trainer: Any, *, noise_every: int | None = 10) -> None:
    """Call it before `trainer.train()`: makes accumulation a mean, logs the `Watch`, and refuses a wrong checkpoint.

    Many heads of transformers take num_items_in_batch and ignore it. The Trainer then does not divide by the number of
    micro-batches, and multiplies by the number of processes (transformers issue 47688): the gradient grows with the
    accumulation. The first batch is tried with two counts, without gradients; if the loss does not change, it is
    divided.

    The numbers are added to the entries of the Trainer's log, and so to TensorBoard, W&B and trainer_state.json. They
    include `global_batch_size` and once `settings/...` (optimizer, peak learning rate, warm-up, reference), which
    `anybatch report` reads. A checkpoint keeps the noise window.

    Args:
        noise_every: measure the gradient noise every N steps; None: never. A measured step reads each gradient once
            more for each micro-batch.

    Raises:
        ValueError: noise_every is below 1, or training has begun; later, if a resumed checkpoint has another global
            batch, learning rate or optimizer.
    """
    checks.check_noise_every(noise_every)
    if not hasattr(trainer, "is_in_train"):
        raise ValueError(f"trainer={checks.shown(trainer)} is not a transformers.Trainer")
    if trainer.is_in_train or trainer.state.global_step or hasattr(trainer, "anybatch_watching"):
        raise ValueError("the Trainer has trained, or is prepared already: call prepare once, before trainer.train()")
    trainer.anybatch_watching = _Watching(trainer, noise_every)
    trainer.add_callback(trainer.anybatch_watching)
    compute_loss = trainer.compute_loss

    def first(model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        trainer.compute_loss = compute_loss
        count = kwargs.get("num_items_in_batch")
        decided = trainer.loss_is_scaled_for_ga is not None or trainer.compute_loss_func or trainer.label_smoother
        if trainer.model_accepts_loss_kwargs and count is not None and not decided:
            model.eval()
            with torch.no_grad():
                one, two = (compute_loss(model, dict(inputs), num_items_in_batch=n * count) for n in (1, 2))
            model.train()
            if torch.equal(one, two):
                trainer.model_accepts_loss_kwargs = False
                _LOG.info("anybatch: the model's loss is a mean of each micro-batch; it is divided by their number")
        return compute_loss(model, inputs, *args, **kwargs)

    trainer.compute_loss = first


class _Watching(TrainerCallback):  # type: ignore[misc]
    def __init__(self, trainer: Any, noise_every: int | None) -> None:
        self._trainer, self._noise_every = trainer, noise_every
        self._watch: Watch | None = None
        self._rates: list[Any] = []
        # The Trainer appends an entry to its history, and calls reporters, before the users' callbacks.
        self._log = trainer.log
        trainer.log = self._enriched
        self._create_scheduler = trainer.create_scheduler
        trainer.create_scheduler = self._scheduled

    def _scheduled(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The Trainer calls this before it loads a checkpoint."""
        made, args = self._create_scheduler(num_training_steps, optimizer), self._trainer.args
        checks.refuse_other_states(checks.unwrapped(optimizer or self._trainer.optimizer))
        self._rates = list(getattr(made, "base_lrs", []))
        steps = {"warmup_steps": args.get_warmup_steps(num_training_steps), "num_steps": num_training_steps}
        args.anybatch_run = {**getattr(args, "anybatch_run", {}), **steps}
        return made

    def _enriched(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if self._watch is not None:
            logs = {**logs, **(self._watch.numbers() if "loss" in logs else self._watch.unlogged())}
        self._log(logs, *args, **kwargs)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._watch is not None:
            self._watch.remove()
        trainer, gradients = self._trainer, GradientState()
        if self._rates:
            checks.check_rates(trainer.lr_scheduler.base_lrs, self._rates)
        replicas = args.world_size // held.copies(getattr(args, "parallelism_config", None))
        at_once = trainer.get_total_train_batch_size(args)
        self._watch = Watch(
            trainer.model_wrapped,
            trainer.optimizer,
            accumulation=args.gradient_accumulation_steps,
            replicas=replicas,
            batch_size=at_once // (replicas if args.accelerator_config.split_batches else 1),
            noise_every=self._noise_every,
            settings=held.recorded(args, checks.unwrapped(trainer.optimizer)),
            is_last=lambda: bool(gradients.sync_gradients),
        )
        if _STATE in state.stateful_callbacks:
            self._watch.load_state_dict(state.stateful_callbacks[_STATE])
        if self._watch.no_noise and self._noise_every is not None:
            _LOG.warning("anybatch: %s", self._watch.no_noise)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._watch is not None and control.should_save:
            state.stateful_callbacks[_STATE] = self._watch.state_dict()

    on_epoch_end = on_step_end

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._watch is not None:
            self._watch.remove()


def _check_arguments(arguments: Any) -> None:
    if not hasattr(arguments, "per_device_train_batch_size"):
        raise ValueError(f"arguments={checks.shown(arguments)} are not TrainingArguments, nor their class")


def _examples_at_once(arguments: Any) -> int:
    """Returns the examples of one micro-batch on all processes."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > 1 and arguments.world_size == 1:
        raise ValueError(
            f"{launched} processes were launched, but TrainingArguments takes each for the only one, as it does "
            "without an accelerator: set use_cpu=True"
        )
    processes = arguments.world_size // held.copies(getattr(arguments, "parallelism_config", None))
    # With split_batches the processes share the loader's batch.
    split = arguments.accelerator_config.split_batches
    found: int = arguments.train_batch_size * (1 if split else processes)
    return found


def _accumulate(arguments: Any, batch_size: int, given: set[str]) -> None:
    at_once, size = _examples_at_once(arguments), arguments.per_device_train_batch_size
    described = f"per_device_train_batch_size={size} on {at_once // size} devices"
    steps = held.accumulation(batch_size, at_once, 1, described)
    if "gradient_accumulation_steps" in given and arguments.gradient_accumulation_steps != steps:
        raise ValueError(
            f"gradient_accumulation_steps={arguments.gradient_accumulation_steps} contradicts batch_size={batch_size}, "
            f"which takes {steps} with {described}; leave one of them out"
        )
    arguments.gradient_accumulation_steps = steps


def _fields(run: Scaled) -> dict[str, Any]:
    """Returns the arguments that the batch determines."""
    if run.join != "continuous" and run.decay != "constant":
        raise ValueError(f'join="{run.join}" is a schedule that the Trainer does not have; use join="continuous"')
    power = run.decay == "polynomial" and run.power != 1
    found = {
        "max_steps": run.num_steps,
        "warmup_steps": run.warmup_steps,
        "lr_scheduler_type": "polynomial" if power else _SCHEDULES[run.decay],
    }
    if power:
        found["lr_scheduler_kwargs"] = {"power": run.power, "lr_end": 0.0}
    for name, value in run.optimizer.items():
        if name == "betas":
            found["adam_beta1"], found["adam_beta2"] = value
        elif name in _FIELDS:
            found[_FIELDS[name]] = value
    return found


def _check_parallel(settings: Mapping[str, Any], batch_size: int | None, processes: int) -> None:
    """Refuses settings that hide the batch or the layers, before the arguments' own checks start anything."""
    size, steps = (count(name, settings[name], 1) for name in _CUT)
    deepspeed = _object(settings.get("deepspeed"))
    if deepspeed is not None:
        if batch_size is not None:
            described = f"per_device_train_batch_size={size} on {processes} devices"
            steps = held.accumulation(batch_size, size, processes, described)
        checks.check_deepspeed(deepspeed, size * steps * processes, size, steps)
    config = _object(settings.get("fsdp_config")) or {}
    if settings.get("fsdp"):
        version = config.get("version", config.get("fsdp_version", 2))
        checks.check_fsdp(version, 'fsdp_config={"version": 2}, or leave the version out')


def _object(given: Any) -> Mapping[str, Any] | None:
    if isinstance(given, str | Path) and str(given):
        try:
            return json.loads(Path(given).read_text(encoding="utf-8"))  # type: ignore[no-any-return]
        except (OSError, ValueError) as error:
            raise ValueError(f"the configuration {given!s:.100} cannot be read: {error}") from None
    return given if isinstance(given, Mapping) else None


def _same(there: Any, value: Any) -> bool:
    if isinstance(value, float) and isinstance(there, int | float):
        return abs(there - value) <= 1e-9 * abs(value)
    return bool(_plain(there) == _plain(value))


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)
