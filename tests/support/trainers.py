"""TrainingArguments for tests: scaled from one reference, silent, on a CPU."""

from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from anybatch import Reference
from anybatch.integrations.trainer import scaled_arguments
from support.loops import BATCH, MICRO_BATCH

TUNED = Reference(8, lr=0.01, warmup_ratio=1 / 64, num_examples=512)
QUIET = {
    "use_cpu": True,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "train_sampling_strategy": "sequential",
    "dataloader_pin_memory": False,
}


def arguments(folder: Path, reference: Reference = TUNED, **given: Any) -> TrainingArguments:
    settings = {"per_device_train_batch_size": MICRO_BATCH, "batch_size": BATCH, **QUIET, **given}
    return scaled_arguments(TrainingArguments, reference, output_dir=str(folder), **settings)
