"""What is read from a run folder is checked where it is read."""

from pathlib import Path

import pytest

from anybatch.errors import InputError
from anybatch.runs import InUse, Run, in_use, locked

GOOD = '{"event": "train", "step": 1, "loss": null, "examples": 16, "elapsed_s": 0.5}\n'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"event": "train", "step": null, "loss": 1.0}', "step = None is not a number of steps"),
        ('{"event": "train", "step": true, "loss": 1.0}', "step = True is not a number of steps"),
        ('{"event": "train", "step": -1, "loss": 1.0}', "step = -1"),
        ('{"event": "train", "step": "2", "loss": 1.0}', "step = '2'"),
        ('{"event": "train", "loss": 1.0}', "step = None"),
        ('{"event": null, "step": 2}', "not an event"),
        ("[1]", "not an event"),
        ('{"event": "train", "step": 2}', "'train' has no 'loss'"),
        ('{"event": "train", "step": 2, "loss": "low"}', 'loss = "low" is not a number'),
        ('{"event": "train", "step": 2, "loss": 1.0, "elapsed_s": null}', "elapsed_s = null is not a number"),
        ('{"event": "eval", "step": 2, "examples": 32, "loss": 1.0, "accuracy": 3}', "accuracy = 3 is not an object"),
    ],
)
def test_a_damaged_line_of_the_metrics_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(GOOD + line + "\n" + GOOD)
    with pytest.raises(InputError) as caught:
        Run(tmp_path).metrics()
    assert str(caught.value).startswith(f"{tmp_path}/metrics.jsonl:2: damaged: ")
    assert message in str(caught.value)


def test_whether_a_run_is_in_use_can_be_asked(tmp_path: Path) -> None:
    assert not in_use(tmp_path / "none")
    assert not in_use(tmp_path)
    with locked(tmp_path):
        assert in_use(tmp_path)
        with pytest.raises(InUse):
            locked(tmp_path).__enter__()
    assert not in_use(tmp_path)
