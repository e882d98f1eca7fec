"""Sequences a second beside the Hugging Face `Trainer`: BERT-mini, masked words, the same model, batch and precision.

    python benchmarks/text_trainer.py SHARDS [--steps 12] [--repeats 3] [--precision fp32]

Both train transformers' `BertForMaskedLM` of one shape on the same documents, on one number of threads, with the same
length, batch and masking rate. `Trainer` runs as its documentation shows it: examples padded to the length, masked by
`DataCollatorForLanguageModeling`, fused AdamW, scores for all positions. anybatch runs its recipe, by LAMB and AdamW.
A loop's rate is that of its median step; the loops take turns. Needs `accelerate`. Writes
benchmarks/results/text-trainer.json.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from anybatch.data import vocabulary
from anybatch.data.mlm import MlmSettings, PretrainingSource
from anybatch.data.prepare import TOKENIZER, TRAIN
from anybatch.data.shards import open_shards
from anybatch.environment import describe_environment
from anybatch.files import write_json
from anybatch.models.bert import BertSettings, pretraining_model
from anybatch.recipes import change, find_recipe, train_recipe
from anybatch.runs import Run

RESULTS = Path(__file__).parent / "results" / "text-trainer.json"


class Examples(torch.utils.data.Dataset[dict[str, Any]]):
    """The same chunks of text as anybatch's examples, before masking."""

    def __init__(self, source: PretrainingSource, count: int) -> None:
        pairs = source.batch(np.zeros(count, dtype=np.int64), np.arange(count)).inputs
        ids = pairs["input_ids"].clone()
        ids.view(-1)[pairs["masked_positions"]] = pairs["masked_labels"]
        self.rows = [
            {"input_ids": row.tolist(), "attention_mask": mask.tolist()}
            for row, mask in zip(ids, pairs["attention_mask"], strict=True)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return self.rows[place]


def trainer(arguments: argparse.Namespace, model: nn.Module, examples: Examples, tokenizer_file: Path) -> float:
    """Seconds of the median step of `Trainer`."""
    from transformers import (
        DataCollatorForLanguageModeling,
        PreTrainedTokenizerFast,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_file), mask_token="[MASK]", pad_token="[PAD]", cls_token="[CLS]",
        sep_token="[SEP]", unk_token="[UNK]",
    )  # fmt: skip
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder, per_device_train_batch_size=arguments.batch_size, max_steps=arguments.steps,
            learning_rate=1e-3, weight_decay=0.01, bf16=arguments.precision == "bf16", use_cpu=True,
            save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True,
            optim="adamw_torch_fused",
        )  # fmt: skip
        collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
        Trainer(model, settings, collator, examples, callbacks=[Clock()]).train()
    return median(np.diff(ends[2:]))


def anybatch(arguments: argparse.Namespace, optimizer: str) -> float:
    """Seconds of the median step of the recipe."""
    settings = [
        f"data.path={arguments.shards}", f"optimizer.name={optimizer}", "data.objective=full_sentences",
        f"reference.batch_size={arguments.batch_size}", f"phases.0.batch_size={arguments.batch_size}",
        f"reference.num_examples={arguments.steps * arguments.batch_size}", "reference.lr=0.001",
        f"phases.0.sequence_length={arguments.length}", "data.num_held_out=32", "engine.num_evals=1",
        f"engine.micro_batch_size={arguments.batch_size}", f"engine.precision={arguments.precision}",
        "model.dropout=0.1", "data.packed=false",
    ]  # fmt: skip
    if optimizer == "adamw":
        settings.append('optimizer.options={"fused":true}')
    with tempfile.TemporaryDirectory() as folder:
        train_recipe(change(find_recipe("bert-mini"), settings), Path(folder) / "run")
        return median(event["step_s"] for event in Run(Path(folder) / "run").metrics("train")[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tokenizer = vocabulary.load(arguments.shards / TOKENIZER)
    source = PretrainingSource(
        open_shards(arguments.shards / TRAIN),
        tokenizer,
        arguments.length,
        0,
        settings=MlmSettings(objective="full_sentences"),
    )
    examples = Examples(source, arguments.steps * arguments.batch_size)
    shape = BertSettings(
        tokenizer.get_vocab_size(), hidden_size=256, num_layers=4, num_heads=4, max_positions=512, dropout=0.1,
        relation=False,
    )  # fmt: skip
    loops: dict[str, Callable[[], float]] = {
        "trainer": lambda: trainer(arguments, pretraining_model(shape, 0).bert, examples, arguments.shards / TOKENIZER),
        "anybatch, lamb": lambda: anybatch(arguments, "lamb"),
        "anybatch, adamw": lambda: anybatch(arguments, "adamw"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(arguments.repeats):
        for name, loop in loops.items():
            seconds[name].append(loop())
    rates = {name: [arguments.batch_size / each for each in found] for name, found in seconds.items()}
    ratios = {
        name: median(mine / theirs for mine, theirs in zip(found, rates["trainer"], strict=True))
        for name, found in rates.items()
    }
    result = {
        "settings": {name: value for name, value in vars(arguments).items() if not isinstance(value, Path)},
        "vocabulary_size": tokenizer.get_vocab_size(),
        "text_tokens_a_sequence": float(np.mean([sum(row["attention_mask"]) for row in examples.rows])),
        "sequences_per_s": {name: median(found) for name, found in rates.items()},
        "each": rates,
        "over_trainer": ratios,
        "environment": {**describe_environment(), "command": ["text_trainer.py"], "threads": arguments.threads},
    }
    write_json(RESULTS, result)
    print(json.dumps({name: value for name, value in result.items() if name != "environment"}, indent=1))


if __name__ == "__main__":
    main()
