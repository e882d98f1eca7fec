"""metrics.jsonl and, if it is installed, TensorBoard: what happened at which step."""

import json
import threading
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from anybatch.files import named_errors, write_text
from anybatch.numbers import null_for_nonfinite
from anybatch.runs import Run

# The number of TensorBoard's records that may wait for the thread that writes them; with TensorBoard's ten, a short
# step waits instead.
_WAITING = 1000


class Mirror(Protocol):
    """Another destination of a run's numbers, besides its folder."""

    def write(self, numbers: Mapping[str, float], step: int) -> None: ...
    def close(self) -> None: ...


class Records:
    """Appends events to a run's metrics; first drops those later than `step`, so a resumed run repeats none.

    Failed saves stay: they are the reason why a run continues from an earlier step than it had reached.
    """

    def __init__(self, run: Run, step: int, mirror: Mirror | None = None) -> None:
        kept = (
            [event for event in run.metrics() if event["step"] <= step or event["event"] == "save_failed"]
            if step
            else []
        )
        write_text(run.metrics_file, "".join(json.dumps(event) + "\n" for event in kept))
        self._file = open(run.metrics_file, "a", encoding="utf-8", buffering=1)  # noqa: SIM115  (closed in __exit__)
        self._path = run.metrics_file
        self._board = Board(run.path / "tensorboard", step) if find_spec("tensorboard") else None
        self._mirror = mirror

    def write(self, event: str, step: int, values: Mapping[str, Any]) -> None:
        with named_errors(self._path):
            self._file.write(json.dumps(null_for_nonfinite({"event": event, "step": step, **values})) + "\n")
        if self._board is not None:
            self._board.add(_summary(event, values), step)
        if self._mirror is not None:
            self._mirror.write(dict(_numbers(event, values)), step)

    def flush(self) -> None:
        """Called before a checkpoint becomes visible, so that a resumed run finds every event up to its step."""
        with named_errors(self._path):
            self._file.flush()
        if self._board is not None:
            self._board.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._file, self._board, self._mirror):
            # A full disk was already reported at the write.
            with suppress(OSError) if error is not None else named_errors(self._path):
                if file is not None:
                    file.close()


def _summary(event: str, values: Mapping[str, Any]) -> Any:
    """Returns all numbers of an event as one TensorBoard record, which costs little more than one number's."""
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


class Board:
    """TensorBoard's files. `step`: the run continues from it; later values in an earlier file are hidden."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder, self._hook = folder, threading.excepthook
        with named_errors(folder):
            purged = step + 1 if step else None
            self._writer: Any = SummaryWriter(str(folder), purge_step=purged, max_queue=_WAITING)
        threading.excepthook = self._unless_told

    def add(self, summary: Any, step: int) -> None:
        with named_errors(self._folder):
            self._writer.file_writer.add_summary(summary, step)

    def flush(self) -> None:
        with named_errors(self._folder):
            self._writer.flush()

    def close(self) -> None:
        threading.excepthook = self._hook
        with named_errors(self._folder):
            self._writer.close()

    def _unless_told(self, raised: threading.ExceptHookArgs) -> None:
        """Hides the traceback of an error in the writer's thread, such as a full disk: the next call reports it."""
        if not (type(raised.thread).__module__.startswith("tensorboard.") and issubclass(raised.exc_type, OSError)):
            self._hook(raised)
