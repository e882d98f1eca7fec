"""Examples that BatchNorm sees together stay together, and its running statistics do not depend on the cut."""

import itertools
from collections import Counter
from pathlib import Path

import pytest
import torch
from support.forked import run_script
from support.grouped_ranks import CUTS, NUM_STEPS, Examples, grouped_job, state

from anybatch.engine import Ranks, train
from anybatch.engine.loading import MicroBatch, Share, cut
from anybatch.engine.parallel import parallelize
from anybatch.engine.step import train_step
from anybatch.runs import Run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run and the final state of every cut."""
    folder = tmp_path_factory.mktemp("groups")
    run_script(Path(__file__).parents[1] / "support" / "grouped_ranks.py", folder, limit_s=120)
    return folder


@pytest.fixture(scope="module")
def states(folder: Path) -> dict[str, torch.Tensor]:
    """The final parameters and statistics of every cut."""
    return {name: torch.load(folder / f"{name}.pt") for name in CUTS}


def by_hand(batch: int, group: int) -> torch.Tensor:
    """The same job in a plain loop, statistics and all."""
    job = grouped_job(batch, group)
    model, norm = job.model, job.model.blocks[0][1]
    norm.momentum = None  # the layer itself then only counts; what it has seen is averaged here
    mean, variance = torch.zeros(6).double(), torch.ones(6).double()
    count = -(-batch // group)
    bounds = [batch * n // count for n in range(count + 1)]
    for lr_group in job.optimizer.param_groups:
        lr_group["lr"] = 0.1
    for step in range(NUM_STEPS):
        seen = []
        for low, high in itertools.pairwise(bounds):
            norm.reset_running_stats()
            rows = Examples().read(step * batch + low, high - low)
            (model(**rows.inputs)[0]["square"] / batch).backward()
            seen.append((norm.running_mean.clone(), norm.running_var.clone()))
        job.optimizer.step()
        job.optimizer.zero_grad()
        mean = 0.9 * mean + 0.1 * torch.stack([pair[0] for pair in seen]).mean(0)
        variance = 0.9 * variance + 0.1 * torch.stack([pair[1] for pair in seen]).mean(0)
    norm.running_mean, norm.running_var = mean, variance
    norm.num_batches_tracked.fill_(NUM_STEPS)
    return state(job)


@pytest.mark.parametrize("name", CUTS)
def test_every_cut_gives_one_trajectory(states: dict[str, torch.Tensor], name: str) -> None:
    _, batch, group, _ = CUTS[name]
    expected = by_hand(batch, group)
    assert (states[name] - expected).norm() < 1e-11 * expected.norm()
    assert (states[name][-13:] - expected[-13:]).abs().max() < 1e-11, "running statistics and their count"


@pytest.mark.parametrize(
    ("name", "alone"), [("two-ranks", "one-rank"), ("three-ranks", "one-rank"), ("idle", "undivided")]
)
def test_ranks_evaluate_with_the_statistics_of_all(folder: Path, name: str, alone: str) -> None:
    mine, expected = ([event["loss"] for event in Run(folder / each).metrics("eval")] for each in (name, alone))
    assert len(mine) == len(expected) > 0
    assert mine == pytest.approx(expected, rel=1e-11)


def test_another_group_is_another_trajectory() -> None:
    assert (by_hand(22, 5) - by_hand(22, 11)).norm() > 1e-3


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize(("count", "group"), [(22, 5), (4, 9), (12, 3), (1, 2), (1000, 64)])
def test_ranks_share_out_whole_groups(size: int, count: int, group: int) -> None:
    ranks = [cut(100, count, rank, size, 3, group) for rank in range(size)]
    assert len({len(pieces) for pieces in ranks}) == 1, "every rank takes as many forward passes"
    pieces = sorted((piece.start, piece.count) for share in ranks for piece in share if piece.counts)
    assert pieces[0][0] == 100
    assert all(start + length == after for (start, length), (after, _) in itertools.pairwise(pieces))
    assert sum(length for _, length in pieces) == count
    assert len(pieces) == -(-count // group)
    lengths = [length for _, length in pieces]
    assert max(lengths) - min(lengths) <= 1
    assert max(lengths) <= group
    whole = Counter((piece.start, piece.count) for share in ranks for piece in share)
    assert set(whole) == set(pieces), "what only fills up is a whole group, too"


def test_a_skipped_step_leaves_no_trace() -> None:
    job = grouped_job(8, 4)
    parallel = parallelize(job, Ranks())
    job.model.train()
    before = state(job).clone()
    rows = Examples().read(0, 4)
    rows.inputs["x"][0, 0] = torch.nan
    share = Share([MicroBatch(rows.inputs, 1.0)], {"square": 4}, 0)
    assert train_step(parallel, job.optimizer, share, None).skipped
    assert torch.equal(state(job), before)


def test_a_run_stopped_in_the_middle_goes_on_with_its_statistics(tmp_path: Path) -> None:
    expected = by_hand(22, 5)
    job = grouped_job(22, 5, checkpoint_every_steps=2, keep_last=9)
    train(job, Run(tmp_path))
    for later in (tmp_path / "checkpoints").glob("step-0000000[56]"):
        for file in later.iterdir():
            file.unlink()
        later.rmdir()
    resumed = grouped_job(22, 5)
    (tmp_path / "result.json").unlink()
    train(resumed, Run(tmp_path))
    assert torch.equal(state(resumed), state(job))
    assert (state(resumed) - expected).norm() < 1e-11 * expected.norm()
