"""Models with made-up batches, for steps and for whole runs of the engine; nothing is read, nothing downloaded."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anybatch.data.batch import Batch
from anybatch.engine import Execution, Job, Phase, Ranks
from anybatch.engine.loading import MicroBatch, Share
from anybatch.engine.parallel import Parallel, parallelize
from anybatch.engine.step import StepResult, train_step
from anybatch.models.bert import BertSettings, pretraining_model
from anybatch.models.classifier import ClassifierSettings, image_classifier
from anybatch.models.gpt import GptSettings, causal_model
from anybatch.models.question_answering import untrained_question_answering_model
from anybatch.optim import LAMB, param_groups

PREDICTIONS_A_TOKEN = 0.15


@dataclass(frozen=True)
class Examples:
    """`make(count, generator)` gives a batch; the same position gives the same one."""

    make: Callable[[int, torch.Generator], Batch]

    def read(self, start: int, count: int) -> Batch:
        return self.make(count, torch.Generator().manual_seed(start))


@dataclass(frozen=True)
class Problem:
    """A kind of model: `model()` makes one, `examples` feed it; `group`: whether BatchNorm sees whole micro-batches."""

    model: Callable[[], nn.Module]
    examples: Examples
    group: bool = False


def bert(settings: BertSettings, length: int) -> Problem:
    """Masked words and next sentences; one sequence in ten is short, as text with short_seq_prob 0.1 has it."""

    def make(count: int, random: torch.Generator) -> Batch:
        ids = torch.randint(5, settings.vocabulary_size, (count, length), generator=random)
        mask = torch.ones_like(ids)
        mask[::10, length * 3 // 4 :] = 0
        masked = torch.arange(0, count * length, round(1 / PREDICTIONS_A_TOKEN))
        masked = masked[mask.flatten()[masked] == 1]
        inputs = {
            "input_ids": ids * mask,
            "token_type_ids": torch.zeros_like(ids),
            "attention_mask": mask,
            "masked_positions": masked,
            "masked_labels": ids.flatten()[masked],
            "next_sentence_label": torch.randint(0, 2, (count,), generator=random),
        }
        return Batch(inputs, {"mlm": len(masked), "nsp": count}, count)

    return Problem(lambda: pretraining_model(settings, seed=0), Examples(make))


def gpt(settings: GptSettings, length: int) -> Problem:
    def make(count: int, random: torch.Generator) -> Batch:
        ids = torch.randint(0, settings.vocabulary_size, (count, length), generator=random)
        return Batch({"input_ids": ids}, {"lm": count * (length - 1)}, count)

    return Problem(lambda: causal_model(settings, seed=0), Examples(make))


def questions(settings: BertSettings, length: int) -> Problem:
    def make(count: int, random: torch.Generator) -> Batch:
        ids = torch.randint(5, settings.vocabulary_size, (count, length), generator=random)
        ends = torch.randint(0, length // 2, (2, count), generator=random)
        inputs = {
            "input_ids": ids,
            "token_type_ids": torch.zeros_like(ids),
            "attention_mask": torch.ones_like(ids),
            "start_positions": ends[0],
            "end_positions": ends[0] + ends[1],
        }
        return Batch(inputs, {"span": count}, count)

    def model() -> nn.Module:
        torch.manual_seed(0)
        config = pretraining_model(settings, seed=0).bert.config
        config.num_labels = 2
        return untrained_question_answering_model(config)

    return Problem(model, Examples(make))


def images(settings: ClassifierSettings) -> Problem:
    def make(count: int, random: torch.Generator) -> Batch:
        size = settings.image_size
        pixels = torch.randn(count, settings.channels, size, size, generator=random)
        labels = torch.randint(0, settings.num_classes, (count,), generator=random)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        return Batch({"images": pixels, "labels": labels}, {"label": count}, count)

    return Problem(lambda: image_classifier(settings, seed=0), Examples(make), group=True)


def large(tiny: bool, dropout: float = 0.1, layers: int = 24) -> BertSettings:
    """BERT-large; a toy of its kind where `tiny`."""
    if tiny:
        return BertSettings(
            vocabulary_size=64, hidden_size=16, num_layers=2, num_heads=2, max_positions=64, dropout=dropout
        )
    return BertSettings(
        vocabulary_size=30_522, hidden_size=1_024, num_layers=layers, num_heads=16, max_positions=512, dropout=dropout
    )


def execution(**changes: Any) -> Execution:
    """One step after the other with nothing beside it."""
    plain = {
        "micro_batch_size": 32,
        "num_evals": 1,
        "num_trust_ratios": 1,
        "checkpoint_every_steps": 10**6,
        "precision": "fp32",
        "compile": False,
        "noise_every": 0,
    }
    return Execution(**{**plain, **changes})


def job(
    problem: Problem,
    device: torch.device,
    batch: int,
    steps: int,
    *,
    model: nn.Module | None = None,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
    phases: list[Phase] | None = None,
    held_out: int = 8,
    **changes: Any,
) -> Job:
    """A job on `problem` whose model is on `device`; keywords of `Execution` change how it is run."""
    model = (model or problem.model()).to(device)
    make = optimizer or (lambda model: LAMB(param_groups(model), lr=1e-3))
    settings = execution(**changes)
    group = batch if problem.group else None
    return Job(
        model=model,
        optimizer=make(model),
        phases=phases or [Phase(problem.examples, batch, steps, 1e-3, 0, lambda t: 1.0, group_size=group)],
        held_out=[problem.examples.read(10**6, held_out)],
        seed=0,
        inputs={},
        max_grad_norm=1.0,
        execution=settings,
        score=lambda finished: {},
        export=lambda finished, folder: Path(folder).mkdir(exist_ok=True),
        summary={},
    )


def share(problem: Problem, micro_batch: int, count: int, device: torch.device, start: int = 0) -> Share:
    """`count` micro-batches that are on the device already."""
    batches = [problem.examples.read(start + number, micro_batch) for number in range(count)]
    targets = {name: sum(batch.num_targets[name] for batch in batches) for name in batches[0].num_targets}
    moved = [{name: value.to(device) for name, value in batch.inputs.items()} for batch in batches]
    return Share([MicroBatch(inputs, 1.0, micro_batch) for inputs in moved], targets, 0)


@dataclass
class Steps:
    """A job that is stepped by hand."""

    job: Job
    parallel: Parallel

    @classmethod
    def of(cls, job: Job, ranks: Ranks | None = None) -> "Steps":
        parallel = parallelize(job, ranks or Ranks())
        job.model.train()
        return cls(job, parallel)

    def take(self, share: Share) -> StepResult:
        return train_step(self.parallel, self.job.optimizer, share, self.job.max_grad_norm)
