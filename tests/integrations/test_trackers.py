"""Trackers: real ones offline if they are installed, a small SDK in their place otherwise."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from anybatch.engine.records import Records
from anybatch.integrations.trackers import Tracker, check_tracker
from anybatch.report.tables import tracked
from anybatch.runs import Run


def run_folder(folder: Path) -> Path:
    (folder / "recipe.json").write_text('{"name": "tiny", "seed": 3}')
    return folder


class Wandb(types.ModuleType):
    """What wandb does, as far as it is called."""

    def __init__(self, url: str | None = None, broken: bool = False) -> None:
        super().__init__("wandb")
        self.options: list[dict[str, Any]] = []
        self.logged: list[tuple[dict[str, float], int]] = []
        self.ended, self.url, self.broken = 0, url, broken

    def init(self, **options: Any) -> Any:
        self.options.append(options)
        owner = self

        class Started:
            id, url, dir = options["id"] or "new", owner.url, f"{options['dir']}/wandb/offline-run/files"

            def log(self, numbers: dict[str, float], step: int) -> None:
                if owner.broken:
                    raise ConnectionError("no network")
                owner.logged.append((numbers, step))

            def finish(self) -> None:
                owner.ended += 1

        return Started()


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Wandb:
    module = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setenv("HOME", str(tmp_path))  # no key in .netrc
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return module


def test_records_go_to_the_tracker_offline_without_a_key(wandb: Wandb, tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    with Records(Run(folder), 0, Tracker("wandb", folder)) as records:
        records.write("train", 1, {"loss": 2.0, "note": "words", "losses": {"mlm": 1.5}})
    assert wandb.logged == [({"train/loss": 2.0, "train/losses/mlm": 1.5}, 1)]
    assert wandb.ended == 1
    (options,) = wandb.options
    assert (options["mode"], options["dir"], options["config"]) == ("offline", str(folder), {"name": "tiny", "seed": 3})
    kept = json.loads((folder / "tracker.json").read_text())
    assert kept == {"tracker": "wandb", "id": "new", "path": f"{folder}/wandb/offline-run"}


def test_with_a_key_it_is_online_and_a_resumed_run_goes_on_in_the_same_place(
    wandb: Wandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "x")
    wandb.url = "https://wandb.ai/me/anybatch/runs/new"
    folder = run_folder(tmp_path)
    Tracker("wandb", folder).close()
    Tracker("wandb", folder).close()
    assert ["mode" in options for options in wandb.options] == [False, False]
    assert [(options["id"], options["resume"]) for options in wandb.options] == [(None, None), ("new", "allow")]
    assert f'<a href="{wandb.url}">' in tracked(json.loads((folder / "tracker.json").read_text()))


def test_a_tracker_that_fails_is_told_once_and_the_run_goes_on(
    wandb: Wandb, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wandb.broken = True
    folder = run_folder(tmp_path)
    with Records(Run(folder), 0, Tracker("wandb", folder)) as records:
        for step in (1, 2):
            records.write("train", step, {"loss": 2.0})
    assert [record.getMessage() for record in caplog.records] == [
        "anybatch: wandb takes no more numbers: ConnectionError: no network"
    ]
    assert len(Run(folder).metrics("train")) == 2


def test_tensorboard_is_what_every_run_has(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    check_tracker("tensorboard")
    Tracker("tensorboard", run_folder(tmp_path)).close()
    kept = json.loads((tmp_path / "tracker.json").read_text())
    assert kept["path"] == str(tmp_path / "tensorboard")
    assert tracked(kept) == "<p>tensorboard: tensorboard</p>"


def test_what_cannot_be_tracked_is_said_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="--track comet: is not one of wandb, mlflow, tensorboard"):
        check_tracker("comet")
    monkeypatch.setattr("anybatch.integrations.trackers.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="mlflow is not installed: pip install mlflow"):
        check_tracker("mlflow")


def test_a_link_that_is_none_is_not_followed() -> None:
    assert "<a" not in tracked({"tracker": "wandb", "url": "javascript:alert(1)", "path": "/x/y"})
    assert tracked({"tracker": "<b>", "path": "/x/<i>"}) == "<p>&lt;b&gt;: &lt;i&gt;</p>"


@pytest.mark.slow
def test_mlflow_itself_keeps_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = run_folder(tmp_path)
    for step in (1, 2):
        tracker = Tracker("mlflow", folder)
        tracker.write({"train/loss": 2.0 * step}, step)
        tracker.close()
    kept = json.loads((folder / "tracker.json").read_text())
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    history = client.get_metric_history(kept["id"], "train/loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 2.0), (2, 4.0)]
    assert client.get_run(kept["id"]).data.params["seed"] == "3"


@pytest.mark.slow
def test_wandb_itself_writes_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    folder = run_folder(tmp_path)
    tracker = Tracker("wandb", folder)
    tracker.write({"train/loss": 2.0}, 1)
    tracker.close()
    kept = json.loads((folder / "tracker.json").read_text())
    assert list(Path(kept["path"]).glob("run-*.wandb"))


@pytest.mark.slow
def test_a_run_of_the_command_line_is_tracked_and_linked(
    wandb: Wandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anybatch.cli import app

    monkeypatch.setattr("anybatch.integrations.trackers.find_spec", lambda name: types.SimpleNamespace(origin=name))
    wandb.url = "https://wandb.ai/me/anybatch/runs/new"
    run, page = tmp_path / "a", tmp_path / "page.html"
    app(
        ["train", "digits-lenet", "--set", "reference.num_epochs=1", "--run", str(run), "--track", "wandb"],
        standalone_mode=False,
    )
    app(["report", str(run), "-o", str(page)], standalone_mode=False)
    sent = [(step, numbers["train/loss"]) for numbers, step in wandb.logged if "train/loss" in numbers]
    assert sent == [(event["step"], event["loss"]) for event in Run(run).metrics("train")]
    assert f'<a href="{wandb.url}">' in page.read_text(encoding="utf-8")


def test_a_damaged_record_of_the_tracker_does_not_end_the_run(
    wandb: Wandb, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (run_folder(tmp_path) / "tracker.json").write_text('{"tracker": "wan')
    Tracker("wandb", tmp_path).write({"loss": 1.0}, 1)
    assert not wandb.logged
    assert "wandb takes no more numbers" in caplog.text
    assert "tracker.json is not a JSON object" in caplog.text


def test_a_trackers_own_folder_is_not_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights & Biases writes ./wandb, which Python finds as a package without a file."""
    (tmp_path / "wandb").mkdir()
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ValueError, match=r"^--track wandb: wandb is not installed: pip install wandb$"):
        check_tracker("wandb")
