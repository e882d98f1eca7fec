"""Runs of other trainers, read from their logs: Hugging Face's trainer_state.json, and TensorBoard's event files.

A step's examples are its number times the global batch. The log contains the batch if an integration of anybatch wrote
it (`global_batch_size`); otherwise the user gives it.

    settings/optimizer/NAME, settings/rule/NAME          1
    settings/lr, settings/warmup_steps                   the peak learning rate, and the steps until it
    settings/reference_batch_size, settings/reference_lr what was tuned, if the run follows from it
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anybatch.errors import InputError
from anybatch.files import read_object
from anybatch.numbers import finite, whole

STATE = "trainer_state.json"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)$")
# The names of the same number: in the Trainer's log, in the Trainer's TensorBoard tags, in Lightning, and in ours.
_NAMES = {
    "loss": re.compile(r"(train[/_])?loss(_step)?"),
    "lr": re.compile(r"(train/)?(learning_rate|lr)|lr-.+"),
    "eval_loss": re.compile(r"(eval|val|valid|validation)[/_]loss(_epoch)?"),
    "accuracy": re.compile(r"(eval|val|valid|validation)[/_](accuracy|acc|top1)(_epoch)?"),
    "batch": re.compile(r"(train/)?global_batch_size"),
    "square": re.compile(r"((train/)?noise|noise)/gradient_square"),
    "trace": re.compile(r"((train/)?noise|noise)/(noise_)?trace"),
    "runtime": re.compile(r"(train/)?train_runtime"),
}
_SETTING = re.compile(r"(?:train/)?(settings/.+)")


@dataclass(frozen=True)
class Log:
    """What a log holds; each number with its step, in order. `finished` is None if the log does not contain it."""

    path: Path
    batch: int
    num_steps: int
    finished: bool | None
    values: Mapping[str, Sequence[tuple[int, float]]]

    def of(self, name: str) -> Sequence[tuple[int, float]]:
        """Returns loss, lr, eval_loss, accuracy, square or trace (of the gradient noise), or runtime in seconds."""
        return self.values.get(name, ())

    def setting(self, name: str) -> float | None:
        """A recorded setting, such as lr; the newest counts. None if it has no finite number of 0 or more."""
        points = self.of(f"settings/{name}")
        value = finite(points[-1][1]) if points else None
        return value if value is not None and value >= 0 else None

    def word(self, name: str) -> str | None:
        """A recorded name: of the optimizer or the rule."""
        known = {
            key.split("/", 2)[2]: points[-1][0] for key, points in self.values.items() if f"settings/{name}/" in key
        }
        return max(known, key=known.__getitem__) if known else None

    @property
    def highest_rate(self) -> float | None:
        """The highest learning rate of the log, which is a lower bound of the run's: see `peak`."""
        return max((rate for _, rate in self.of("lr") if 0 < rate < math.inf), default=None)

    @property
    def peak(self) -> tuple[float, int] | None:
        """The run's learning rate and its warm-up steps: as recorded, or as read from a log that has every step."""
        lr, rates = self.setting("lr"), self.of("lr")
        if lr:
            return lr, round(self.setting("warmup_steps") or 0)
        highest = self.highest_rate
        if highest is None or len(rates) < self.num_steps:
            return None
        first = next(step for step, rate in rates if rate == highest)
        return highest, 0 if first == rates[0][0] else first


def is_log(folder: Path) -> bool:
    """Returns whether the folder holds one run's log."""
    return _state(folder) is not None or bool(_events(folder))


def read_log(folder: Path, batch: int | None = None) -> Log:
    """Reads the run in `folder`: an output_dir or a checkpoint of the Trainer, or a folder of event files.

    Args:
        batch: the global batch, if the log does not contain it.

    Raises:
        InputError: the log cannot be read, has no step, or no batch is known; TensorBoard is not installed.
    """
    state = _state(folder)
    found, finished = _of_state(state) if state is not None else (_of_events(folder), None)
    num_steps = max((step for points in found.values() for step, _ in points), default=0)
    if num_steps < 1:
        raise InputError(
            f"{state or folder}: has no step in it yet, or none under a name that is read: loss, train/loss, "
            "train_loss, eval_loss, eval/loss, val_loss, learning_rate, lr"
        )
    batches = [size for _, value in found.get("batch", []) if (size := whole(value)) is not None and size >= 1]
    known = batches[-1] if batches else batch
    if batch is not None and batches and batch != batches[-1]:
        raise InputError(f"{folder}: the log says a global batch of {batches[-1]}, --batch-size {batch}; leave it out")
    if known is None or known < 1:
        raise InputError(
            f"{folder}: the log does not say the global batch (devices x per-device batch x accumulation): give it as "
            f"--batch-size {folder.name}=N"
        )
    return Log(folder, known, num_steps, finished, found)


def batch_sizes(given: Sequence[str]) -> dict[str, int]:
    """Parses FOLDER=N into N by the folder's path or name. Raises InputError for anything else."""
    found = {}
    for each in given:
        name, _, number = each.rpartition("=")
        if not name or not number.isdecimal() or int(number) < 1:
            raise InputError(f"--batch-size {each}: is not FOLDER=N, a folder and the examples of one step")
        found[name.rstrip("/")] = int(number)
    return found


def batch_of(folder: Path, given: Mapping[str, int]) -> int | None:
    """Returns the batch that the user gave for this folder."""
    names = [folder.name, str(folder), *(str(Path(name)) for name in given if Path(name).resolve() == folder.resolve())]
    return next((given[name] for name in names if name in given), None)


def _state(folder: Path) -> Path | None:
    """Returns the newest trainer_state.json of an output_dir."""
    saved = {int(m[1]): p for p in folder.glob(f"checkpoint-*/{STATE}") if (m := _CHECKPOINT.search(p.parent.name))}
    own = folder / STATE
    return own if own.is_file() else saved[max(saved)] if saved else None


def _of_state(path: Path) -> tuple[dict[str, list[tuple[int, float]]], bool]:
    state = read_object(path)
    history = state.get("log_history")
    if not isinstance(history, list):
        raise InputError(f"{path}: is not the state of a Hugging Face Trainer: it has no log_history")
    entries = [entry for entry in history if isinstance(entry, dict) and _is_step(entry.get("step"))]
    # The summary at the end has another train_loss: the mean over the whole run.
    found = _sorted_out(
        (name, entry["step"], value)
        for entry in entries
        for name, value in entry.items()
        if name != "train_loss" or "train_runtime" not in entry
    )
    step, last = state.get("global_step"), state.get("max_steps")
    return found, isinstance(step, int) and isinstance(last, int) and 0 < last <= step


def _is_step(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _events(folder: Path) -> list[Path]:
    return sorted(folder.glob("events.out.tfevents.*")) if folder.is_dir() else []


def _of_events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        raise InputError(
            f"{folder}: event files are read by TensorBoard: pip install 'anybatch[tensorboard]'"
        ) from None
    # 0: every event, none left out.
    board = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    try:
        board.Reload()
        tags = board.Tags()["scalars"]
        return _sorted_out((tag, event.step, event.value) for tag in tags for event in board.Scalars(tag))
    # TensorBoard raises several kinds of error for a damaged file.
    except Exception as error:
        raise InputError(f"{folder}: TensorBoard cannot read its event files ({type(error).__name__})") from None


def _float(value: float) -> float:
    """Returns the float; infinity for an integer that no float can hold."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _sorted_out(numbers: Iterable[tuple[str, int, Any]]) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, dict[int, float]] = {}
    for name, step, value in numbers:
        if isinstance(value, int | float) and not isinstance(value, bool):
            setting = _SETTING.fullmatch(name)
            known = [setting[1]] if setting else [key for key, pattern in _NAMES.items() if pattern.fullmatch(name)]
            for key in known:
                # Resumed runs log a step twice; the later one counts.
                found.setdefault(key, {})[step] = _float(value)
    return {name: sorted(points.items()) for name, points in found.items()}
