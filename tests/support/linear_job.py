"""A model that is small enough to follow by hand, and a job around it, for the tests of the engine."""

import os
import signal
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anybatch.data.batch import Batch
from anybatch.engine import Execution, Job, Phase
from anybatch.optim import LAMB
from anybatch.progress import SilentProgress
from anybatch.runs import Run


class RaggedExamples:
    """Example i has 1 + i % 3 targets; all is drawn from a generator seeded by i.

    Example `poison` holds a NaN; at -1, all do."""

    def __init__(self, poison: int | None = None) -> None:
        self.poison = poison

    def read(self, start: int, count: int) -> Batch:
        features, targets = [], []
        for i in range(start, start + count):
            generator = torch.Generator().manual_seed(i)
            rows = 1 + i % 3
            features.append(torch.randn(rows, 4, generator=generator, dtype=torch.float64))
            targets.append(torch.randn(rows, generator=generator, dtype=torch.float64))
            if self.poison in (i, -1):
                features[-1][0, 0] = torch.nan
        x, y = torch.cat(features), torch.cat(targets)
        return Batch({"x": x, "y": y}, {"square": len(y)}, count, sum(7**i for i in range(start, start + count)))


class Regression(nn.Module):
    """One hidden layer and dropout, in float64; the loss is a sum of squares."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden = nn.Linear(4, 6, dtype=torch.float64)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(6, 1, dtype=torch.float64)
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        error = self.out(self.dropout(self.hidden(x).tanh())).squeeze(-1) - y
        right = {} if self.training else {"square": (error.abs() < 1).sum()}
        return {"square": error.square().sum()}, right


EXECUTION = {"num_evals": 3, "num_trust_ratios": 4, "checkpoint_every_steps": 5, "prefetch": False}


def regression_job(
    *,
    num_steps: int = 12,
    global_batch_size: int = 10,
    micro_batch_size: int = 4,
    dropout: float = 0.0,
    examples: RaggedExamples | None = None,
    optimizer: str = "lamb",
    execution: dict[str, Any] | None = None,
    **changes: Any,
) -> Job:
    """A job of `num_steps` on `Regression`; LAMB, or AdamW by name."""
    model = Regression(dropout)
    examples = examples or RaggedExamples()
    chosen = LAMB(model.named_parameters(), lr=1.0) if optimizer == "lamb" else torch.optim.AdamW(model.parameters())
    settings: dict[str, Any] = {
        "model": model,
        "optimizer": chosen,
        "phases": [Phase(examples, global_batch_size, num_steps, 0.05, 0, lambda t: 1 - t / num_steps)],
        "held_out": [examples.read(10_000, 8)],
        "seed": 3,
        "inputs": {"data": "regression"},
        "max_grad_norm": 1.0,
        "execution": Execution(**{**EXECUTION, "micro_batch_size": micro_batch_size, **(execution or {})}),
        "score": lambda finished: {"parameter": finished.out.weight[0, 0].item()},
        "export": lambda finished, folder: Path(folder).mkdir(exist_ok=True),
        "summary": {"recipe": "regression"},
    }
    return Job(**{**settings, **changes})


def parameters(job: Job) -> Tensor:
    """All parameters of a job as one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in job.model.parameters()])


def run_at(folder: Path) -> Run:
    folder.mkdir(exist_ok=True)
    return Run(folder)


class StopAt:
    """Examples that ask the process to stop, as a scheduler does, when those from `position` on are read."""

    def __init__(self, position: int, signal_number: int = signal.SIGTERM) -> None:
        self.position, self.signal_number, self.inner = position, signal_number, RaggedExamples()

    def read(self, start: int, count: int) -> Any:
        if start == self.position:
            os.kill(os.getpid(), self.signal_number)
        return self.inner.read(start, count)


class Listener(SilentProgress):
    def __init__(self, said: list[str]) -> None:
        self.said = said

    def say(self, line: str) -> None:
        self.said.append(line)
