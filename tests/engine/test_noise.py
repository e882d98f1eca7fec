"""A run measures the gradient noise of some of its steps, from gradients that it has anyway, and learns the same."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support.linear_job import RaggedExamples, Regression, parameters, regression_job

from anybatch.engine import train
from anybatch.runs import Run
from anybatch.scaling import GradientNoiseScale, split_norms

METER = partial(GradientNoiseScale, every=None, window=1)


def events(folder: Path, **changes: Any) -> list[dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    train(regression_job(noise_meter=METER, **changes), Run(folder))
    return Run(folder).metrics("noise")


def gradient(start: int, count: int) -> torch.Tensor:
    """Of the mean loss over the targets of examples start .. start + count - 1, times their share in ten examples."""
    model = Regression()
    batch, whole = (RaggedExamples().read(*span) for span in ((start, count), (0, 10)))
    (model(**batch.inputs)[0]["square"] / whole.num_targets["square"]).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize(("micro_batch_size", "pieces"), [(4, [4, 4, 2]), (50, [5, 5])])
def test_a_watched_step_gives_both_unknowns_without_bias(
    tmp_path: Path, micro_batch_size: int, pieces: list[int]
) -> None:
    """Micro-batches as they come; where a step is a single one, its halves."""
    (found,) = events(tmp_path, num_steps=1, micro_batch_size=micro_batch_size, execution={"noise_every": 1})
    starts = [sum(pieces[:k]) for k in range(len(pieces))]
    small = sum(
        float(gradient(start, count).mul(10 / count).square().sum())
        for start, count in zip(starts, pieces, strict=True)
    )
    square, trace = split_norms(
        small / len(pieces), sum(1 / count for count in pieces) / len(pieces),
        float(gradient(0, 10).square().sum()), 1 / 10,
    )  # fmt: skip
    assert found["step"] == 1
    assert found["examples"] == 10
    assert (found["gradient_square"], found["noise_trace"]) == pytest.approx((square, trace), rel=1e-9)


def test_watching_changes_nothing_but_rounding_and_only_some_steps(tmp_path: Path) -> None:
    watched, plain = (
        regression_job(micro_batch_size=50, noise_meter=meter, execution={"noise_every": 5}) for meter in (METER, None)
    )
    for name in ("watched", "plain"):
        (tmp_path / name).mkdir()
    train(watched, Run(tmp_path / "watched"))
    train(plain, Run(tmp_path / "plain"))
    torch.testing.assert_close(parameters(watched), parameters(plain), rtol=1e-11, atol=1e-12)
    assert [event["step"] for event in Run(tmp_path / "watched").metrics("noise")] == [5, 10]
    assert Run(tmp_path / "plain").metrics("noise") == []


def test_what_cannot_be_measured_is_not(tmp_path: Path) -> None:
    assert events(tmp_path / "one", global_batch_size=1, execution={"noise_every": 1}) == []
    assert events(tmp_path / "never", execution={"noise_every": 0}) == []
    poisoned = events(tmp_path / "poisoned", examples=RaggedExamples(poison=13), execution={"noise_every": 1})
    assert [event["step"] for event in poisoned] == [1, *range(3, 13)], "the second step's gradient is not finite"
