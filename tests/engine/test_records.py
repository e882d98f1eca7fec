"""What a step leaves behind costs little, and nothing of it is lost."""

from pathlib import Path
from statistics import fmean, pstdev

import pytest
import torch

from anybatch.engine.course import Health, seed_generator
from anybatch.engine.records import Records
from anybatch.runs import Run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")


def test_tensorboard_has_every_number_of_every_event_in_one_record_each(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    with Records(Run(tmp_path), 0) as records:
        for step in range(1, 41):
            records.write(
                "train", step, {"loss": 1 / step, "losses": {"lm": 1 / step}, "skipped": 0, "note": "no number"}
            )
    (file,) = (tmp_path / "tensorboard").iterdir()
    events = [Event.FromString(raw) for raw in RawEventFileLoader(str(file)).Load()]
    found = {
        event.step: {value.tag: value.simple_value for value in event.summary.value}
        for event in events
        if event.summary.value
    }
    assert len(events) == 41  # the file's version comes first
    assert found == {
        step: pytest.approx({"train/loss": 1 / step, "train/losses/lm": 1 / step, "train/skipped": 0})
        for step in range(1, 41)
    }
    assert [event["loss"] for event in Run(tmp_path).metrics("train")] == [1 / step for step in range(1, 41)]


def test_a_spike_is_six_standard_deviations_above_the_last_hundred() -> None:
    generator = torch.Generator().manual_seed(0)
    losses = (4 + torch.randn(400, generator=generator) ** 9 / 50).tolist()
    health = Health(max_skipped_steps=20)
    expected = []
    for step, loss in enumerate(losses):
        recent = losses[max(0, step - 100) : step]
        expected.append(step >= 20 and loss > fmean(recent) + 6 * pstdev(recent))
    assert [health.spike(loss) for loss in losses] == expected
    assert 2 < sum(expected) < 50
    flat = Health(max_skipped_steps=20, losses=[1.0] * 30)
    assert [flat.spike(loss) for loss in (1.0, 1.0 + 1e-9, float("nan"), 0.5)] == [False, True, False, False]


def test_seeding_the_generator_is_torch_manual_seed() -> None:
    torch.manual_seed(2**63 - 5)
    expected = torch.rand(3)
    seed_generator(2**63 - 5)
    assert torch.equal(torch.rand(3), expected)
