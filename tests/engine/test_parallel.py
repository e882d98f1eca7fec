"""What a model's blocks become: compiled, recomputed, or both. Copies and shards on several ranks: test_cuts.py."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.linear_job import RaggedExamples, regression_job
from torch import Tensor, nn

from anybatch.engine import train
from anybatch.engine.evaluate import evaluate_together
from anybatch.engine.loading import cut, read_share
from anybatch.engine.parallel import parallelize
from anybatch.engine.ranks import Ranks
from anybatch.engine.step import train_step
from anybatch.runs import Run

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler"),
    pytest.mark.filterwarnings("default"),
]


class Block(nn.Module):
    """A linear layer of its own code: torch's are left out of what is compiled by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).tanh()


class Blocks(nn.Module):
    """Three equal blocks, which share one code object, as the layers of a transformer do."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.embedding = nn.Linear(4, 4, dtype=torch.float64)

    def forward(self, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        x = self.embedding(x)
        for block in self.blocks:
            x = block(x)
        error = x.sum(-1) - y
        return {"square": error.square().sum()}, {"square": (error.abs() < 1).sum()}


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[torch.fx.GraphModule]:
    """Every graph that is compiled from here on; nothing but the tracing is done, which is what takes no time."""
    torch._dynamo.reset()
    found: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        found.append(graph)
        return graph

    compile_ = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: compile_(self, backend=backend, **options))
    return found


@pytest.mark.parametrize("recomputed", [False, True])
def test_blocks_are_compiled(graphs: list[torch.fx.GraphModule], recomputed: bool) -> None:
    execution = {"compile": True, "activation_checkpointing": recomputed}
    job = regression_job(model=Blocks(), execution=execution)
    parallel = parallelize(job, Ranks())
    optimizer = torch.optim.SGD(job.model.parameters(), lr=0.1)
    train_step(parallel, optimizer, read_share(RaggedExamples(), cut(0, 6, 0, 1, 6)), None)
    # All blocks have one code object, and take one shape.
    assert len(graphs) == 1


def test_more_shapes_than_torch_compiles_by_default_stay_compiled(graphs: list[torch.fx.GraphModule]) -> None:
    job = regression_job(model=Blocks(), execution={"compile": True})
    parallel = parallelize(job, Ranks())
    block = parallel.module.blocks[0]
    with torch._dynamo.config.patch(assume_static_by_default=True, automatic_dynamic_shapes=False):
        for rows in range(2, 14):
            block(torch.zeros(rows, 4, dtype=torch.float64))
    assert len(graphs) == 12


def test_an_evaluation_compiles_nothing(graphs: list[torch.fx.GraphModule]) -> None:
    job = regression_job(model=Blocks(), execution={"compile": True})
    evaluate_together(parallelize(job, Ranks()), job.held_out)
    assert not graphs


@pytest.mark.slow
def test_a_compiled_model_trains_the_same(tmp_path: Path) -> None:
    found = []
    for compiled in (False, True):
        torch.manual_seed(1)
        model = Blocks()
        job = regression_job(num_steps=3, execution={"compile": compiled}, score=lambda finished: {})
        job = replace(job, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
        run = Run(tmp_path / str(compiled))
        run.path.mkdir()
        train(job, run)
        found.append(torch.cat([p.detach().flatten() for p in job.model.parameters()]))
    assert (found[0] - found[1]).norm() / found[0].norm() < 1e-12
