"""The micro-batch that fits is found by measuring small ones, in training mode, and is one on all ranks."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.auto_ranks import CASES
from support.forked import run_script
from support.linear_job import parameters, regression_job

from anybatch.engine import train
from anybatch.engine.micro_batch import choose_micro_batch_sizes, largest_that_fits
from anybatch.engine.parallel import parallelize
from anybatch.engine.preview import preview
from anybatch.engine.ranks import Ranks
from anybatch.errors import Failed
from anybatch.progress import SilentProgress
from anybatch.runs import Run


def found(cost: Callable[[int], int], share: int, room: int) -> tuple[int, list[int]]:
    """The size, and the sizes that were measured for it."""
    tried: list[int] = []

    def measure(size: int) -> int:
        tried.append(size)
        return cost(size)

    return largest_that_fits(measure, share, room, Ranks()), tried


@pytest.mark.parametrize("room", [110, 500, 1_000, 10_000, 100_000])
@pytest.mark.parametrize("share", [1, 3, 7, 100, 5_000])
def test_what_is_chosen_and_what_is_measured_fits(share: int, room: int) -> None:
    size, tried = found(lambda size: 100 + 10 * size, share, room)
    assert all(100 + 10 * each <= room or each <= 2 for each in tried)
    assert 100 + 10 * size <= room
    most = min(share, 4096, (room - 100) // 10)
    assert -(-share // size) == -(-share // most), "as few micro-batches as fit"


def test_micro_batches_are_about_equal() -> None:
    assert found(lambda size: size, 100, 60)[0] == 50


def test_a_size_that_takes_more_than_the_line_says_is_taken_back() -> None:
    """Below 100 examples memory grows by 1 an example, beyond by 3."""
    size, tried = found(lambda size: size + max(0, size - 100) * 2, 1_000, 400)
    assert max(tried) > size
    assert size + max(0, size - 100) * 2 <= 400


def test_a_single_example_that_does_not_fit_is_explained() -> None:
    with pytest.raises(Failed, match=r"a micro-batch of 1 example takes 3.0 GB beside the model, and 2.0 GB are left"):
        found(lambda size: size * 3_000_000_000, 8, 2_000_000_000)


class Counted:
    """A memory of 1,000 bytes in which an example takes 100 in training mode, and 10 otherwise."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.modes: list[bool] = []
        self.rows: list[int] = []
        model.register_forward_pre_hook(self._look, with_kwargs=True)

    def _look(self, model: torch.nn.Module, args: Any, kwargs: Any) -> None:
        self.modes.append(model.training)
        self.rows.append(len(kwargs["x"]))

    def available(self) -> int:
        return 1_000 + 3 * 4 * 37 * 2  # the moments of LAMB

    def peak(self, call: Callable[[], None]) -> int:
        call()
        return 100 * self.rows[-1] if self.modes[-1] else 10 * self.rows[-1]


def test_it_is_measured_in_training_mode() -> None:
    job = regression_job(global_batch_size=40, execution={"micro_batch_size": "auto"})
    job.model.eval()
    memory = Counted(job.model)
    sizes = choose_micro_batch_sizes(job, parallelize(job, Ranks()), SilentProgress(), memory)
    assert all(memory.modes)
    # Of 1, 2 and 3 targets in turn; one more example would not fit by the line through the last two measurements.
    assert sizes == [4]
    assert all(p.grad is None for p in job.model.parameters())


def test_a_preview_measures_in_training_mode_too(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[bool] = []

    def choose(job: Any, *_: Any) -> list[int]:
        modes.append(job.model.training)
        return [4]

    monkeypatch.setattr("anybatch.engine.preview.choose_micro_batch_sizes", choose)
    job = regression_job()
    job.model.eval()
    preview(job, 1)
    assert modes == [True]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("auto")
    run_script(Path(__file__).parents[1] / "support" / "auto_ranks.py", folder, limit_s=90)
    return folder


def told(folder: Path, case: str) -> list[dict[str, Any]]:
    return [json.loads((folder / case / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("case", ["ddp", "fsdp"])
def test_ranks_with_unequal_memory_agree_and_train_alike(ended: Path, tmp_path: Path, case: str) -> None:
    first, second = told(ended, case)
    assert first["sizes"] == second["sizes"] == [3]
    job = regression_job(num_steps=3, global_batch_size=20)
    train(replace(job, execution=replace(job.execution, micro_batch_size=10)), Run(tmp_path))
    assert first["parameters"] == pytest.approx(parameters(job).tolist(), rel=1e-11)


@pytest.mark.parametrize("case", sorted(CASES - {"ddp", "fsdp", "broken"}))
def test_memory_that_runs_out_while_measuring_ends_all_ranks(ended: Path, case: str) -> None:
    errors = [rank["error"] for rank in told(ended, case)]
    assert any("out of memory while measuring a micro-batch of" in error for error in errors)
    assert all(errors)


def test_a_gradient_that_is_not_sharded_is_an_error(ended: Path) -> None:
    errors = [rank["error"] for rank in told(ended, "broken")]
    assert any(error.endswith("an earlier pass was broken off; start the run again") for error in errors)
    assert all(errors)
