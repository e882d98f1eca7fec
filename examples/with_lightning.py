"""LAMB in a Lightning module, its settings from a tuned batch.

python examples/with_lightning.py
"""

import lightning
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from anybatch import Reference
from anybatch.integrations.lightning import TrainingWatch, configured

BATCH, MICRO_BATCH = 256, 64
tuned = Reference(batch_size=32, lr=0.01, warmup_ratio=1 / 80, num_examples=32_768)


class Classifier(lightning.LightningModule):
    """A small network that learns the classes of another network."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))
        self.losses = []

    def training_step(self, batch, batch_index):
        inputs, labels = batch
        loss = cross_entropy(self.net(inputs), labels)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        return configured(self, tuned, MICRO_BATCH)  # LAMB and its schedule, at the batch that the Trainer makes of it


lightning.seed_everything(0, verbose=False)
teacher = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 10))
x = torch.randn(8192, 32)
loader = DataLoader(TensorDataset(x, teacher(x).argmax(dim=1)), batch_size=MICRO_BATCH, shuffle=True)
model = Classifier()
trainer = lightning.Trainer(
    accelerator="cpu",  # or "gpu", devices=8: then divide accumulate_grad_batches by the number of devices
    max_epochs=-1,
    accumulate_grad_batches=BATCH // MICRO_BATCH,
    callbacks=[TrainingWatch()],  # trust ratios and the noise scale, in every logger
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(model, loader)
print(f"{trainer.global_step} steps of {BATCH}: loss {model.losses[0]:.3f} to {model.losses[-1]:.3f}")
