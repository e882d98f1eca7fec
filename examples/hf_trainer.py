"""LAMB in the Hugging Face Trainer, its arguments scaled from a tuned batch to another.

python examples/hf_trainer.py
"""

import tempfile

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from anybatch import LAMB, Reference, param_groups


def scaled(tuned: Reference, batch_size: int, micro_batch_size: int, num_processes: int = 1) -> dict:
    """The TrainingArguments that follow from the batch: every example counts once, over all processes."""
    micro_batches, rest = divmod(batch_size, micro_batch_size * num_processes)
    if rest:
        raise ValueError(f"{batch_size} examples do not fill micro-batches of {micro_batch_size} x {num_processes}")
    run = tuned.at(batch_size)
    return {
        "per_device_train_batch_size": micro_batch_size,
        "gradient_accumulation_steps": micro_batches,
        "learning_rate": run.lr,
        "warmup_steps": run.warmup_steps,
        "max_steps": run.num_steps,
        "lr_scheduler_type": "linear",
    }


torch.manual_seed(0)
config = BertConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
model = BertForSequenceClassification(config)
# Sentences of 16 words; the label says whether the first word is in the upper half of the vocabulary.
words = torch.randint(64, (1024, 16))
examples = [{"input_ids": row, "labels": int(row[0] >= 32)} for row in words]

tuned = Reference(batch_size=16, lr=0.02, warmup_ratio=1 / 64, num_examples=3072)
arguments = scaled(tuned, batch_size=64, micro_batch_size=32)
with tempfile.TemporaryDirectory() as folder:
    trainer = Trainer(
        model,
        TrainingArguments(
            folder, **arguments, max_grad_norm=0.0, logging_steps=8, save_strategy="no", report_to="none"
        ),
        train_dataset=examples,
        # "params" replaces the Trainer's own groups, which know nothing of `adapt`.
        optimizer_cls_and_kwargs=(LAMB, {"params": param_groups(model), "lr": arguments["learning_rate"]}),
    )
    trainer.train()
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
print(f"rate {arguments['learning_rate']}, {arguments['max_steps']} steps: loss {losses[0]:.3f} to {losses[-1]:.3f}")
