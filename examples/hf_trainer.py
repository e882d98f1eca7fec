"""LAMB in the Hugging Face Trainer, its arguments scaled from a tuned batch to another.

python examples/hf_trainer.py
torchrun --standalone --nproc-per-node 2 examples/hf_trainer.py
"""

import tempfile

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from anybatch import LAMB, Reference
from anybatch.integrations.trainer import optimizer, prepare, scaled_arguments

torch.manual_seed(0)
config = BertConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
model = BertForSequenceClassification(config)
# Sentences of 16 words; the label is whether the first word is in the upper half of the vocabulary.
words = torch.randint(64, (1024, 16))
examples = [{"input_ids": row, "labels": int(row[0] >= 32)} for row in words]

with tempfile.TemporaryDirectory() as folder:
    tuned = Reference(batch_size=16, lr=0.02, warmup_ratio=1 / 64, num_examples=3072, weight_decay=0.01)
    arguments = scaled_arguments(
        TrainingArguments,
        tuned,
        batch_size=64,  # over all devices; gradient accumulation follows
        per_device_train_batch_size=16,
        output_dir=folder,
        logging_steps=8,
        save_strategy="no",
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = Trainer(model, arguments, train_dataset=examples, optimizer_cls_and_kwargs=optimizer(LAMB, arguments))
    prepare(trainer)  # a mean over micro-batches; trust ratios and the noise scale, wherever the Trainer logs
    trainer.train()
first, *_, last = [entry for entry in trainer.state.log_history if "loss" in entry]
if trainer.is_world_process_zero():
    print(
        f"{arguments.max_steps} steps, rate {arguments.learning_rate}: loss {first['loss']:.3f} to {last['loss']:.3f}"
    )
    print(f"median trust ratio {last['trust_ratio/p50']:.3f}, |G|^2 {last['noise/gradient_square']:.3g}")
