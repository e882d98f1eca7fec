"""metrics.jsonl and, where it is installed, TensorBoard: what happened at which step."""

import json
import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from anybatch.files import write_text
from anybatch.runs import Run

# Records of TensorBoard's that may wait for the thread that writes them; with its ten, a short step waits instead.
_WAITING = 1000


class Records:
    """Appends events to a run's metrics; those later than `step` are dropped first, so a resumed run repeats none.

    Saves that failed stay: they are why a run goes on from an earlier step than it had reached.
    """

    def __init__(self, run: Run, step: int) -> None:
        kept = (
            [event for event in run.metrics() if event["step"] <= step or event["event"] == "save_failed"]
            if step
            else []
        )
        write_text(run.metrics_file, "".join(json.dumps(event) + "\n" for event in kept))
        self._file = open(run.metrics_file, "a", encoding="utf-8", buffering=1)  # noqa: SIM115  (closed in __exit__)
        self._board = _tensorboard(run.path / "tensorboard", step)

    def write(self, event: str, step: int, values: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(null_for_nonfinite({"event": event, "step": step, **values})) + "\n")
        if self._board is not None:
            self._board.file_writer.add_summary(_summary(event, values), step)

    def flush(self) -> None:
        """Called before a checkpoint becomes visible: a resumed run finds every event up to its step."""
        self._file.flush()
        if self._board is not None:
            self._board.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


class NoRecords:
    """What ranks other than the first have: rank 0 records for all."""

    def write(self, event: str, step: int, values: Mapping[str, Any]) -> None: ...
    def flush(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


def null_for_nonfinite(value: Any) -> Any:
    """`value` with None for NaN and infinity, which JSON cannot hold; mappings become dicts."""
    if isinstance(value, Mapping):
        return {name: null_for_nonfinite(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _summary(event: str, values: Mapping[str, Any]) -> Any:
    """All numbers of an event as one record of TensorBoard's, which costs little more than that of one number."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    numbers = _numbers(event, values)
    return Summary(value=[Summary.Value(tag=name, simple_value=number) for name, number in numbers])


def _numbers(prefix: str, values: Mapping[str, Any]) -> list[tuple[str, float]]:
    flat: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.extend(_numbers(f"{prefix}/{name}", value))
        elif isinstance(value, int | float):
            flat.append((f"{prefix}/{name}", value))
    return flat


def _tensorboard(folder: Path, step: int) -> Any:
    if find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1 if step else None, max_queue=_WAITING)
