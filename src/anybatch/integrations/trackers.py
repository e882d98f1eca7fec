"""The trackers of `anybatch train --track`, besides the run folder: Weights & Biases, MLflow, TensorBoard.

Offline by default: Weights & Biases writes RUN/wandb unless WANDB_MODE or a key is set; MLflow writes RUN/mlflow.db
unless MLFLOW_TRACKING_URI names a server. RUN/tracker.json holds what the report links: tracker, id, and url or path;
a resumed run continues there.
"""

import json
import logging
import netrc
import os
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_LOG = logging.getLogger(__name__)
_PROJECT = "anybatch"
_PACKAGES = ("wandb", "mlflow", "tensorboard")


class Tracker:
    """Sends numbers to a tracker; the tracker's first error ends the sending with one warning, and never ends the run.

    Args:
        name: "wandb", "mlflow" or "tensorboard", which every run has anyway if it is installed.
        folder: the run's folder.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self._name, self._folder = name, folder
        self._send: Callable[..., None] = _nothing
        self._end: Callable[..., None] = _nothing
        file = folder / "tracker.json"
        described = {"path": str(folder / "tensorboard")} if name == "tensorboard" else self._guarded(self._open, file)
        if described is not None:
            whole = file.with_suffix(".json.new")
            whole.write_text(json.dumps({"tracker": name, **described}, indent=1), encoding="utf-8")
            whole.replace(file)

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        """Sends the numbers of one event."""
        if numbers:
            self._guarded(self._send, numbers, step)

    def close(self) -> None:
        """Waits until all is sent."""
        self._guarded(self._end)

    def _open(self, file: Path) -> dict[str, str]:
        before, settings = _read(file), _read(self._folder / "recipe.json")
        kept = before.get("id") if before.get("tracker") == self._name else None
        return self._wandb(kept, settings) if self._name == "wandb" else self._mlflow(kept, settings)

    def _guarded(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        # An error of the tracker's library, its server or the network never ends the run.
        except Exception as error:
            self._send = self._end = _nothing
            _LOG.warning("anybatch: %s takes no more numbers: %s: %s", self._name, type(error).__name__, error)
            return None

    def _wandb(self, kept: str | None, settings: Mapping[str, Any]) -> dict[str, str]:
        import wandb

        options: dict[str, Any] = {"project": _PROJECT, "name": self._folder.name, "dir": str(self._folder)}
        options |= {"id": kept, "resume": "allow" if kept else None, "config": dict(settings)}
        if "WANDB_MODE" not in os.environ and not _has_key():
            options["mode"] = "offline"
        run = wandb.init(**options)
        self._send = lambda numbers, step: run.log(dict(numbers), step=step)
        self._end = run.finish
        found = {"id": str(run.id), "path": str(Path(run.dir).parent)}
        return found | ({"url": run.url} if run.url else {})

    def _mlflow(self, kept: str | None, settings: Mapping[str, Any]) -> dict[str, str]:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        given = os.environ.get("MLFLOW_TRACKING_URI")
        client = MlflowClient(tracking_uri=given or f"sqlite:///{(self._folder / 'mlflow.db').resolve()}")
        known = client.get_experiment_by_name(_PROJECT)
        experiment = known.experiment_id if known else client.create_experiment(_PROJECT)
        identity = kept or client.create_run(experiment, run_name=self._folder.name).info.run_id
        if kept is None:
            # MLflow takes at most 6,000 characters of a value.
            params = [Param(name, json.dumps(value)[:6000]) for name, value in settings.items()]
            client.log_batch(identity, params=params)

        def send(numbers: Mapping[str, float], step: int) -> None:
            now = round(time.time() * 1000)
            client.log_batch(identity, metrics=[Metric(name, value, now, step) for name, value in numbers.items()])

        self._send, self._end = send, lambda: client.set_terminated(identity)
        if given and given.startswith("http"):
            return {"id": identity, "url": f"{given.rstrip('/')}/#/experiments/{experiment}/runs/{identity}"}
        return {"id": identity, "path": given or str(self._folder / "mlflow.db")}


def _nothing(*_: object) -> None:
    pass


def check_tracker(name: str) -> None:
    """Raises ValueError for an unknown name, or if its library is not installed."""
    if name not in _PACKAGES:
        raise ValueError(f"--track {name}: is not one of {', '.join(_PACKAGES)}")
    spec = find_spec(name)
    # A folder of that name, such as Weights & Biases' own, is found as a package without a file.
    if spec is None or spec.origin is None:
        raise ValueError(f"--track {name}: {name} is not installed: pip install {name}")


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} is not a JSON object: {error}") from None


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
