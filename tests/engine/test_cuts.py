"""One trajectory, however the global batch is cut: over ranks, micro-batches, whole or sharded parameters, restarts."""

from pathlib import Path

import pytest
import torch
from support.cut_ranks import CUTS, ELASTIC, METER, ROUNDED, job_of
from support.forked import run_script
from support.linear_job import parameters

from anybatch.engine import train
from anybatch.runs import Run

# The model is in float64: what is left is the order of sums, over 50 steps of training.
TOLERANCE = 1e-11


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all cuts."""
    folder = tmp_path_factory.mktemp("cuts")
    run_script(Path(__file__).parents[1] / "support" / "cut_ranks.py", folder, limit_s=270)
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


@pytest.mark.parametrize("name", CUTS)
def test_every_cut_measures_the_gradient_noise(cut: Path, name: str) -> None:
    """Signal and noise add up to the step's own squared norm, whatever two gradients they were told apart by."""
    _, batch, _, _, _ = CUTS[name]
    run = Run(cut / name)
    norms = {event["step"]: event["grad_norm"] for event in run.metrics("train")}
    found = run.metrics("noise")
    # Of the shards of three examples on four ranks, no rank has two.
    assert [event["step"] for event in found] == ([] if name == "fsdp-idle" else [*range(3, 51, 3)])
    for event in found:
        square = event["gradient_square"] + event["noise_trace"] / batch
        assert square == pytest.approx(norms[event["step"]] ** 2, rel=1e-9)


def test_ranks_measure_what_micro_batches_do(cut: Path, tmp_path: Path) -> None:
    job = job_of(10, 5, "lamb", execution={"noise_every": 3}, noise_meter=METER)
    train(job, Run(tmp_path))
    alone, ranks = (
        [(event["gradient_square"], event["noise_trace"]) for event in Run(folder).metrics("noise")]
        for folder in (tmp_path, cut / "recomputed")
    )
    for mine, theirs in zip(alone, ranks, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-7)


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
