"""What each of two processes runs under torchrun: one library, the whole run, and the same run resumed in its middle.

python two_processes.py LIBRARY FOLDER; rank 0 leaves FOLDER/found.pt.
"""

import functools
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from anybatch import LAMB, Reference, param_groups
from support.loops import BATCH, MICRO_BATCH, examples, network

TUNED = Reference(8, lr=0.01, warmup_ratio=1 / 64, num_examples=512, weight_decay=0.01)
HALF = 8  # steps of 32: one pass over the 256 examples


def parameters(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def trainer(folder: Path, sharded: bool = False) -> dict[str, Any]:
    from transformers import Trainer, TrainingArguments

    from anybatch.integrations.trainer import optimizer, prepare, scaled_arguments

    found: dict[str, Any] = {}
    for name, start in (("whole", None), ("resumed", str(folder / f"checkpoint-{HALF}"))):
        args = scaled_arguments(
            TrainingArguments,
            TUNED,
            batch_size=BATCH,
            per_device_train_batch_size=MICRO_BATCH,
            output_dir=str(folder),
            use_cpu=True,
            report_to="none",
            save_steps=HALF,
            logging_steps=4,
            max_grad_norm=0.05,
            disable_tqdm=True,
            train_sampling_strategy="sequential",
            **({"fsdp": True, "fsdp_config": {"version": 2}} if sharded else {}),
        )
        if sharded:
            as_accelerators()
        data = [{"x": x, "labels": label} for x, label in zip(*examples(), strict=True)]
        loop = Trainer(network(), args, train_dataset=data, optimizer_cls_and_kwargs=optimizer(LAMB, args))
        prepare(loop, noise_every=2)
        loop.train(resume_from_checkpoint=start)
        found[name] = gathered(loop.model_wrapped) if sharded else parameters(loop.model)
        if start is None:
            found["log"] = [entry for entry in loop.state.log_history if "loss" in entry]
            found["accumulation"] = args.gradient_accumulation_steps
    return found


def as_accelerators() -> None:
    """Accelerate has FSDP2 for accelerators alone, and on CPUs takes DDP: it is told that these are some."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_XPU


def gathered(model: torch.nn.Module) -> list[torch.Tensor]:
    """Parameters, all of which must be sharded."""
    return [p.full_tensor().detach() for p in model.parameters()]  # type: ignore[operator]


def trainer_fsdp2(folder: Path) -> dict[str, Any]:
    return trainer(folder, sharded=True)


def accelerate_fsdp2(folder: Path) -> dict[str, Any]:
    return accelerate(folder, sharded=True)


def accelerate(folder: Path, sharded: bool = False) -> dict[str, Any]:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, GradientAccumulationPlugin
    from torch.utils.data import DataLoader, TensorDataset

    from anybatch.integrations.accelerate import scaled, scheduler, watch

    found: dict[str, Any] = {}
    for name in ("whole", "resumed"):
        AcceleratorState._reset_state()
        GradientState._reset_state()
        given: dict[str, Any] = {}
        if sharded:
            given["fsdp_plugin"] = FullyShardedDataParallelPlugin(fsdp_version=2)
            given["gradient_accumulation_plugin"] = GradientAccumulationPlugin(num_steps=1, sync_each_batch=True)
            if name == "whole":
                assert Accelerator(cpu=True, **given).distributed_type == DistributedType.MULTI_CPU, "the page says so"
                AcceleratorState._reset_state()
                GradientState._reset_state()
            as_accelerators()
        accelerator = Accelerator(cpu=True, **given)
        run = scaled(accelerator, TUNED, BATCH, MICRO_BATCH)
        plain = network()
        made = LAMB(param_groups(plain, run.optimizer.pop("weight_decay")), lr=run.lr)
        model, made, loader, schedule = accelerator.prepare(
            plain,
            made,
            DataLoader(TensorDataset(*examples()), batch_size=MICRO_BATCH),
            scheduler(accelerator, made, run),
        )
        seen = watch(accelerator, model, made, schedule, noise_every=2)
        taken = 0
        if name == "resumed":
            accelerator.load_state(str(folder / "state"), load_kwargs={"weights_only": True})
            taken = HALF
        while taken < run.num_steps:
            for x, labels in loader:
                with accelerator.accumulate(model):
                    accelerator.backward(model(x, labels)["loss"])
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), 0.05)
                    made.step()
                    schedule.step()
                    made.zero_grad()
                taken += accelerator.sync_gradients
            if taken == HALF:
                accelerator.save_state(str(folder / "state"))
        found[name] = gathered(model) if sharded else parameters(plain)
        if name == "whole":
            found["log"], found["accumulation"] = [seen.numbers()], accelerator.gradient_accumulation_steps
    return found


def lightning(folder: Path) -> dict[str, Any]:
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint
    from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

    from anybatch.integrations.lightning import TrainingWatch, configured

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self.network(*batch)["loss"]

        def configure_optimizers(self) -> Any:
            return configured(self, TUNED, MICRO_BATCH)

    found: dict[str, Any] = {}
    for name, start in (("whole", None), ("resumed", str(folder / f"step={HALF}.ckpt"))):
        module, seen = Module(), TrainingWatch(noise_every=2)
        loop = Trainer(
            accelerator="cpu",
            devices=2,
            strategy="ddp",
            use_distributed_sampler=False,
            max_epochs=-1,
            accumulate_grad_batches=BATCH // MICRO_BATCH // 2,
            gradient_clip_val=0.05,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[seen, ModelCheckpoint(folder, every_n_train_steps=HALF, save_top_k=-1, filename="{step}")],
        )
        # Lightning's own sampler shuffles, whatever the loader does.
        data = TensorDataset(*examples())
        sampler = DistributedSampler(data, 2, int(os.environ["RANK"]), shuffle=False)
        loader = DataLoader(data, batch_size=MICRO_BATCH, sampler=sampler)
        loop.fit(module, loader, ckpt_path=start, weights_only=True)
        found[name] = parameters(module.network)
        if start is None:
            assert seen._watch is not None
            found["log"], found["accumulation"] = [seen._watch.numbers()], loop.accumulate_grad_batches
    return found


def plain(folder: Path) -> dict[str, Any]:
    """DDP of torch itself: "whole" with LAMB, "resumed" with LAMB inside ZeroRedundancyOptimizer."""
    from torch.distributed.optim import ZeroRedundancyOptimizer
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    run, (x, labels) = TUNED.at(BATCH), examples()
    found: dict[str, Any] = {"log": [], "accumulation": 2}
    for name in ("whole", "resumed"):
        model = DistributedDataParallel(network())
        groups = param_groups(model.module, 0.01)
        optimizer: torch.optim.Optimizer
        if name == "whole":
            optimizer = LAMB(groups, lr=run.lr, max_grad_norm=0.05)
        else:
            unnamed = [{**group, "params": [p for _, p in group["params"]]} for group in groups]
            kind = functools.partial(LAMB, max_grad_norm=0.05, process_group=dist.group.WORLD)
            optimizer = ZeroRedundancyOptimizer(unnamed, kind, lr=run.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, run.schedule)
        for step in range(run.num_steps):
            first = step * BATCH % len(x) + rank * BATCH // 2
            part = slice(first, first + BATCH // 2)
            model(x[part], labels[part])["loss"].backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        found[name] = parameters(model.module)
    return found


if __name__ == "__main__":
    library, place = sys.argv[1], Path(sys.argv[2])
    libraries = (trainer, trainer_fsdp2, accelerate, accelerate_fsdp2, lightning, plain)
    result = {each.__name__: each for each in libraries}[library](place)
    if dist.get_rank() == 0:
        torch.save(result, place / "found.pt")
    dist.barrier()
    sys.stdout.flush()
    # gloo's threads, which the libraries keep, can abort an interpreter that is being taken down.
    os._exit(0)
