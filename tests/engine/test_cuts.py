"""One trajectory, however the global batch is cut: over ranks, micro-batches, whole or sharded parameters, restarts."""

from pathlib import Path

import pytest
import torch
from engine.cut_ranks import CUTS, ELASTIC, ROUNDED, job_of
from engine.forked import run_script
from engine.linear_job import parameters

from anybatch.engine import train
from anybatch.runs import Run

# The model is in float64: what is left is the order of sums, over 50 steps of training.
TOLERANCE = 1e-11


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all cuts."""
    folder = tmp_path_factory.mktemp("cuts")
    run_script(Path(__file__).with_name("cut_ranks.py"), folder, limit_s=270)
    return folder


@pytest.fixture(scope="module")
def undivided(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], tuple[torch.Tensor, list[str]]]:
    """Final parameters, and the examples of every step, of one process and micro-batch, by batch and optimizer."""
    found = {}
    for batch, optimizer in {(batch, optimizer) for _, batch, _, optimizer, _ in CUTS.values()}:
        run = Run(tmp_path_factory.mktemp("undivided"))
        job = job_of(batch, 10, optimizer)
        train(job, run)
        found[batch, optimizer] = parameters(job), checksums(run)
    return found


def checksums(run: Run) -> list[str]:
    return [event["examples_checksum"] for event in run.metrics("train")]


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative, over the whole parameter vector."""
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", CUTS)
def test_every_cut_gives_one_trajectory(
    cut: Path, undivided: dict[tuple[int, str], tuple[torch.Tensor, list[str]]], name: str
) -> None:
    _, batch, _, optimizer, _ = CUTS[name]
    expected, examples = undivided[batch, optimizer]
    assert distance(torch.load(cut / name / "parameters.pt"), expected) < TOLERANCE
    assert checksums(Run(cut / name)) == examples
    assert len(set(examples)) == len(examples)


@pytest.mark.parametrize("name", ROUNDED)
def test_rounding_to_bf16_stays_near(
    cut: Path, undivided: dict[tuple[int, str], tuple[torch.Tensor, list[str]]], name: str
) -> None:
    expected, examples = undivided[10, "lamb"]
    assert 1e-6 < distance(torch.load(cut / name / "parameters.pt"), expected) < 0.1
    assert checksums(Run(cut / name)) == examples


def test_a_run_moves_between_numbers_of_ranks_and_ways_of_sharding(
    cut: Path, undivided: dict[tuple[int, str], tuple[torch.Tensor, list[str]]]
) -> None:
    run = Run(cut / "elastic")
    expected, examples = undivided[10, "lamb"]
    assert distance(torch.load(run.path / "parameters.pt"), expected) < TOLERANCE
    assert checksums(run) == examples
    starts = run.metrics("start")
    assert [start["ranks"] for start in starts] == [ranks for ranks, _, _ in ELASTIC]
    assert [start["parallel"] for start in starts] == ["none", "ddp", "ddp", "fsdp", "none"]
    assert [start["step"] for start in starts] == sorted({start["step"] for start in starts}), "each part went on"
