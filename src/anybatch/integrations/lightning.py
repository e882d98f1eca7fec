"""Lightning: what configure_optimizers returns, from a reference; and trust ratios and noise in the loggers."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim.lr_scheduler import LambdaLR

from anybatch.integrations.watching import Watch
from anybatch.optim import LAMB, Layerwise, param_groups
from anybatch.scaling import Reference


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
    """What `configure_optimizers` returns: the optimizer over `param_groups(module)`, its schedule, stepped every step.

        global batch = data-parallel processes x micro_batch_size x accumulate_grad_batches

    The Trainer's max_steps becomes the reference's number of steps.

    Args:
        micro_batch_size: the batch_size of the training DataLoader.
        kind: the class, such as LAMB.
        layerwise: wrap it: `Layerwise(kind(...))`.
        weight_decay: if the reference has none.
        settings: further arguments of the class.

    Raises:
        ValueError: the Trainer's max_steps or max_epochs contradict the reference.
    """
    trainer = module.trainer
    run = reference.at(micro_batch_size * _replicas(trainer) * trainer.accumulate_grad_batches)
    described = f"{run.num_examples:,} examples at a global batch of {run.batch_size:,} are {run.num_steps:,} steps"
    if trainer.max_steps not in (-1, run.num_steps):
        raise ValueError(f"Trainer(max_steps={trainer.max_steps}) contradicts the reference: {described}; leave it out")
    if trainer.max_epochs not in (None, -1, 1000):
        raise ValueError(f"Trainer(max_epochs={trainer.max_epochs}) has no say: {described}; give max_epochs=-1")
    trainer.fit_loop.epoch_loop.max_steps, trainer.fit_loop.max_epochs = run.num_steps, -1
    chosen = run.optimizer | settings
    made = kind(param_groups(module, chosen.pop("weight_decay", weight_decay)), **chosen)
    optimizer = Layerwise(made) if layerwise else made
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": LambdaLR(optimizer, run.schedule), "interval": "step"},
    }


class TrainingWatch(Callback):  # type: ignore[misc]
    """Logs what `Watch` measures, and global_batch_size, to the Trainer's loggers every log_every_n_steps.

    Args:
        noise_every: measure the gradient noise every N steps; None: never.

    Raises:
        ValueError: when training starts: the schedule is stepped once an epoch; or the optimizer holds none of the
            module's parameters.
    """

    def __init__(self, noise_every: int | None = 10) -> None:
        self._noise_every = noise_every
        self._watch: Watch | None = None
        self._logged = self._batch_size = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for config in trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, LambdaLR) and config.interval != "step":
                raise ValueError(
                    f'the scheduler has interval="{config.interval}", Lightning\'s default: warm-up and decay count '
                    'steps; return {"scheduler": ..., "interval": "step"}, as `configured` does'
                )
        model = trainer.strategy.model
        sharded = any(hasattr(p, "placements") for p in model.parameters())
        self._watch = Watch(
            model,
            trainer.optimizers[0],
            micro_batches=trainer.accumulate_grad_batches * (1 if sharded else _replicas(trainer)),
            noise_every=self._noise_every,
            ranks="sum" if sharded else None,
        )
        self._logged = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._watch is not None:
            self._watch.saw(batch)
            if not self._batch_size:
                self._batch_size = self._watch.num_examples * _replicas(trainer) * trainer.accumulate_grad_batches

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._watch is not None:
            self._watch.backward_done()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Lightning calls it before it clips."""
        if self._watch is not None:
            self._watch.gradient_done()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if self._watch is None or step == self._logged or step % trainer.log_every_n_steps:
            return
        self._logged = step
        numbers = {**self._watch.numbers(), "global_batch_size": self._batch_size}
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._watch is not None:
            self._watch.remove()


def _replicas(trainer: Trainer) -> int:
    """Processes that see examples of their own."""
    known = trainer.distributed_sampler_kwargs
    return int(known["num_replicas"]) if known else 1
