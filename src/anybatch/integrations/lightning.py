"""Lightning: the return value of configure_optimizers, from a reference; and trust ratios and noise in the loggers."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim.lr_scheduler import LambdaLR

from anybatch.integrations import checks
from anybatch.integrations import settings as held
from anybatch.integrations.watching import Watch
from anybatch.optim import LAMB
from anybatch.scaling import Reference
from anybatch.scaling.schedule import count


def configured(
    module: LightningModule,
    reference: Reference,
    micro_batch_size: int,
    kind: Callable[..., Any] = LAMB,
    *,
    layerwise: bool = False,
    weight_decay: float = 0.01,
    **settings: Any,
) -> dict[str, Any]:
    """Returns the value for `configure_optimizers`: an optimizer over `param_groups(module)`, its schedule by step.

        global batch = data-parallel processes x micro_batch_size x accumulate_grad_batches

    The Trainer's max_steps becomes the reference's number of steps.

    Args:
        micro_batch_size: the batch_size of the training DataLoader; the `TrainingWatch` checks it.
        kind: the class, such as LAMB.
        layerwise: wrap it: `Layerwise(kind(...))`.
        weight_decay: used if the reference has none.
        settings: further arguments of the class.

    Raises:
        ValueError: the Trainer's max_steps or max_epochs contradict the reference; later, if a checkpoint has another
            learning rate or the state of another optimizer.
    """
    checks.check_kind(kind)
    trainer = module.trainer
    trainer.anybatch_micro_batch_size = count("micro_batch_size", micro_batch_size, 1)
    run = held.scaled_run(trainer, reference, micro_batch_size * _replicas(trainer) * trainer.accumulate_grad_batches)
    described = f"{run.num_examples:,} examples at a global batch of {run.batch_size:,} are {run.num_steps:,} steps"
    if trainer.max_steps not in (-1, run.num_steps):
        raise ValueError(f"Trainer(max_steps={trainer.max_steps}) contradicts the reference: {described}; leave it out")
    if trainer.max_epochs not in (None, -1, 1000):
        raise ValueError(f"Trainer(max_epochs={trainer.max_epochs}) has no say: {described}; give max_epochs=-1")
    trainer.fit_loop.epoch_loop.max_steps, trainer.fit_loop.max_epochs = run.num_steps, -1
    optimizer = held.made(kind, module, run.optimizer | settings, weight_decay, layerwise)
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": checks.ScaledLR(optimizer, run.schedule), "interval": "step"},
    }


class TrainingWatch(Callback):  # type: ignore[misc]
    """Logs the measurements of `Watch` to the Trainer's loggers every log_every_n_steps.

    A checkpoint keeps the noise window.

    Args:
        noise_every: measure the gradient noise every N steps; None: never.

    Raises:
        ValueError: noise_every is below 1; when training starts: the schedule is stepped once an epoch, the optimizer
            holds none of the module's parameters, or the checkpoint has another global batch; with the second batch:
            its size is not the one that `configured` was given.
    """

    def __init__(self, noise_every: int | None = 10) -> None:
        checks.check_noise_every(noise_every)
        self._noise_every = noise_every
        # Lightning calls the hooks of training after on_train_start.
        self._watch: Any = None
        self._loaded: dict[str, Any] = {}
        self._logged = 0

    def state_dict(self) -> dict[str, Any]:
        return self._watch.state_dict() if self._watch else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for config in trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, LambdaLR) and config.interval != "step":
                raise ValueError(
                    f'the scheduler has interval="{config.interval}", Lightning\'s default: warm-up and decay count '
                    'steps; return {"scheduler": ..., "interval": "step"}, as `configured` does'
                )
        told = getattr(trainer, "anybatch_micro_batch_size", None)
        replicas = _replicas(trainer)
        self._watch = Watch(
            trainer.strategy.model,
            trainer.optimizers[0],
            accumulation=trainer.accumulate_grad_batches,
            replicas=replicas,
            batch_size=told and told * replicas * trainer.accumulate_grad_batches,
            micro_batch_size=told,
            noise_every=self._noise_every,
            settings=held.recorded(trainer, trainer.optimizers[0]),
        )
        if self._loaded:
            self._watch.load_state_dict(self._loaded)
            self._loaded = {}
        self._logged = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._watch.saw(batch)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._watch.backward_done()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Lightning calls this before it clips."""
        self._watch.gradient_done()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step == self._logged or step % trainer.log_every_n_steps:
            return
        self._logged, numbers = step, self._watch.numbers()
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._watch.remove()


def _replicas(trainer: Trainer) -> int:
    """Returns the number of processes that see different examples."""
    known = trainer.distributed_sampler_kwargs
    return int(known["num_replicas"]) if known else 1
