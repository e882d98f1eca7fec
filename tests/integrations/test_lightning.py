"""Lightning, run for real: held to a loop by hand, resumed, watched, and asked for what does not fit together."""

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning")

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from support.loops import BATCH, MICRO_BATCH, by_hand, equal, examples, network
from torch.utils.data import DataLoader, TensorDataset

from anybatch import LAMB, LARS, GradientNoiseScale, Layerwise, Reference, param_groups
from anybatch.integrations.lightning import TrainingWatch, configured

TUNED = Reference(8, lr=0.01, warmup_ratio=1 / 64, num_examples=512)
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers:UserWarning",
    "ignore:.*`isinstance.treespec:FutureWarning",
    "ignore:Checkpoint directory .* exists:UserWarning",
)


class Module(LightningModule):
    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.network, self.settings = network(), settings

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.network(*batch)["loss"]

    def configure_optimizers(self) -> Any:
        return configured(self, TUNED, MICRO_BATCH, **self.settings)


def trainer(folder: Path, **given: Any) -> Trainer:
    settings = {
        "accelerator": "cpu",
        "max_epochs": -1,
        "accumulate_grad_batches": BATCH // MICRO_BATCH,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": str(folder),
    }
    return Trainer(**{**settings, **given})


def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(*examples()), batch_size=MICRO_BATCH)


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("kind", ["lamb", "lars", "layerwise"])
def test_it_ends_where_a_loop_by_hand_ends(kind: str, clip: float | None, tmp_path: Path) -> None:
    settings, make = {
        "lamb": ({}, lambda groups, lr: LAMB(groups, lr=lr)),
        "lars": ({"kind": LARS, "momentum": 0.8}, lambda groups, lr: LARS(groups, lr=lr, momentum=0.8)),
        "layerwise": (
            {"kind": torch.optim.SGD, "layerwise": True},
            lambda groups, lr: Layerwise(torch.optim.SGD(groups, lr=lr)),
        ),
    }[kind]
    module = Module(**settings)
    trainer(tmp_path, gradient_clip_val=clip).fit(module, loader())
    run, other = TUNED.at(BATCH), network()
    by = make(param_groups(other), run.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(by, run.schedule)

    def before_step() -> None:
        # Lightning sums the norm in the order of the optimizer.
        if clip is not None:
            torch.nn.utils.clip_grad_norm_([p for group in by.param_groups for p in group["params"]], clip)

    assert equal(module.network, by_hand(other, by, schedule, run.num_steps, before_step=before_step))


def test_the_log_has_trust_ratios_and_the_noise_scale_of_a_loop_by_hand(tmp_path: Path) -> None:
    module = Module()
    logger = CSVLogger(tmp_path)
    watching = TrainingWatch(noise_every=2)
    trainer(tmp_path, logger=logger, log_every_n_steps=4, callbacks=[watching], gradient_clip_val=0.05).fit(
        module, loader()
    )
    run, other = TUNED.at(BATCH), network()
    by = LAMB(param_groups(other), lr=run.lr)
    noise = GradientNoiseScale(other, every=2)
    schedule = torch.optim.lr_scheduler.LambdaLR(by, run.schedule)
    by_hand(other, by, schedule, run.num_steps, lambda: noise.micro_batch(MICRO_BATCH), noise.step, clip=0.05)
    rows = [line.split(",") for line in (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()]
    last = dict(zip(rows[0], rows[-1], strict=True))
    assert [row[rows[0].index("step")] for row in rows[1:]] == ["4", "8", "12", "16"]
    assert float(last["noise/scale"]) == pytest.approx(noise.estimate().value, rel=1e-6)
    assert float(last["trust_ratio/min"]) == pytest.approx(
        min(each.ratio for each in by.trust_ratios().values() if each.ratio != 1)
    )
    assert float(last["global_batch_size"]) == BATCH


def test_a_model_checkpoint_goes_on_bit_for_bit_with_weights_only(tmp_path: Path) -> None:
    whole = Module()

    def saving() -> Trainer:
        each = ModelCheckpoint(tmp_path, every_n_train_steps=8, save_top_k=-1, filename="{step}")
        return trainer(tmp_path, enable_checkpointing=True, callbacks=[each, TrainingWatch()])

    saving().fit(whole, loader())
    again = Module()
    saving().fit(again, loader(), ckpt_path=str(tmp_path / "step=8.ckpt"), weights_only=True)
    assert equal(again.network, [p.detach() for p in whole.network.parameters()])


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            {"max_steps": 500},
            r"Trainer\(max_steps=500\) contradicts the reference: 512 examples at a global batch of 32",
        ),
        ({"max_epochs": 3}, r"Trainer\(max_epochs=3\) has no say: 512 examples .* are 16 steps"),
    ],
)
def test_what_does_not_fit_together_is_refused(given: dict[str, int], line: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=line):
        trainer(tmp_path, **given).fit(Module(), loader())


def test_a_schedule_stepped_once_an_epoch_is_refused(tmp_path: Path) -> None:
    class Wrong(Module):
        def configure_optimizers(self) -> Any:
            made = super().configure_optimizers()
            return [made["optimizer"]], [made["lr_scheduler"]["scheduler"]]

    with pytest.raises(ValueError, match='interval="epoch", Lightning\'s default: warm-up and decay count steps'):
        trainer(tmp_path, callbacks=[TrainingWatch()]).fit(Wrong(), loader())


def test_an_optimizer_of_another_model_is_refused(tmp_path: Path) -> None:
    class Wrong(Module):
        def configure_optimizers(self) -> Any:
            return LAMB(param_groups(network()), lr=0.1)

    with pytest.raises(ValueError, match="made before the model was wrapped"):
        trainer(tmp_path, callbacks=[TrainingWatch()]).fit(Wrong(), loader())


def saving(folder: Path, **given: Any) -> Trainer:
    each = ModelCheckpoint(folder, every_n_train_steps=8, save_top_k=-1, filename="{step}")
    return trainer(folder, enable_checkpointing=True, callbacks=[each, TrainingWatch(noise_every=1)], **given)


def test_a_checkpoint_of_another_batch_is_refused(tmp_path: Path) -> None:
    saving(tmp_path).fit(Module(), loader())
    with pytest.raises(ValueError, match=r"the checkpoint's learning rate is 0\.02, this run's 0\.01414"):
        saving(tmp_path, accumulate_grad_batches=2).fit(Module(), loader(), ckpt_path=str(tmp_path / "step=8.ckpt"))


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    class Plain(Module):
        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(param_groups(self, 0.01), lr=0.02)

    saving(tmp_path, max_steps=16).fit(Plain(), loader())
    with pytest.raises(ValueError, match="the checkpoint is another optimizer's"):
        saving(tmp_path).fit(Module(), loader(), ckpt_path=str(tmp_path / "step=8.ckpt"))


def test_a_loader_of_another_batch_than_was_said_is_an_error(tmp_path: Path) -> None:
    other = DataLoader(TensorDataset(*examples()), batch_size=MICRO_BATCH // 2)
    with pytest.raises(ValueError, match=r"is given 4 examples at once, not micro_batch_size=8, .* batch is not 32"):
        trainer(tmp_path, callbacks=[TrainingWatch()]).fit(Module(), other)


def test_a_resumed_run_goes_on_with_its_noise_window_and_the_settings_are_logged(tmp_path: Path) -> None:
    found = []
    for start in (None, str(tmp_path / "step=8.ckpt")):
        logger = CSVLogger(tmp_path, name=str(len(found)))
        saving(tmp_path, logger=logger, log_every_n_steps=8).fit(Module(), loader(), ckpt_path=start)
        rows = [line.split(",") for line in (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()]
        found.append([dict(zip(rows[0], row, strict=True)) for row in rows[1:]])
    whole, resumed = found
    assert whole[-1]["noise/scale"] == resumed[-1]["noise/scale"] != ""
    assert float(whole[0]["settings/lr"]) == float(resumed[0]["settings/lr"]) == TUNED.at(BATCH).lr
    assert (whole[0]["settings/optimizer/LAMB"], whole[0]["settings/rule/sqrt"]) == ("1.0", "1.0")


def test_wrong_intervals_and_classes_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="noise_every=0 is not an int of at least 1"):
        TrainingWatch(noise_every=0)
    with pytest.raises(ValueError, match="kind='lamb' is not an optimizer's class"):
        trainer(tmp_path).fit(Module(kind="lamb"), loader())
