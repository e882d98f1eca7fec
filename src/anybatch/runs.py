"""The run folder: the whole truth of a run, written by the engine, read by the report and the command line.

RUN/recipe.json         the resolved recipe, with the engine settings of the last start
RUN/environment.json    versions, hardware, threads, ranks, git revision, command
RUN/metrics.jsonl       one JSON object a line; see below
RUN/checkpoints/        step-00000100/ ...: see engine/checkpoint.py
RUN/model/              the final weights and tokenizer as a Hugging Face folder
RUN/skipped-images.txt  for images: the images that could not be read, and why
RUN/classification.json for images: the confusion matrix and worst mistakes; see evaluation/image_scores.py
RUN/sample.json         for a GPT: the finished model's continuation of a held-out text's start
RUN/predictions.json    for SQuAD: answers; nbest_predictions.json and null_odds.json beside it
RUN/result.json         settings and final scores of a finished run, and the SHA-256 of every file of model/
RUN/status.json         {"outcome": "running" | "finished" | "stopped" | "failed", "step", "message"}
RUN/tracker.json        the tracker that --track named: tracker, id, url or path; see integrations/trackers.py
RUN/stacks-rank0.txt    the stack of every thread of a rank when the run hung and was ended

Every event of the metrics has "event", "step" (steps done), "examples" (seen so far), "elapsed_s" (over all starts).

"start"         at each start or resume: ranks, parallel, micro_batch_sizes (one a phase),
                precision, low_precision_weights, gradient_dtype, deterministic, compile, channels_last,
                cudnn_search, threads, device
"train"         a step: phase (from 0), loss and losses (means over the global batch's targets), lr, grad_norm (before
                clipping), clipped, skipped (0 or 1; a loss or gradient was not finite), spike (1: the loss is over 6
                standard deviations above the last 100), step_s, data_wait_s (mean over ranks), examples_per_s,
                mfu (the share of the devices' dense peak in the run's precision; null if unknown),
                memory_bytes (rank 0's greatest so far: the GPU's, or the process's), examples_checksum (16 hexadecimal
                digits, the same for any cut)
"eval"          loss, losses, accuracy on held-out data
"save_failed"   a checkpoint could not be written, for example on a full disk, and the run continued: message
"noise"         of a step: gradient_square and noise_trace, unbiased estimates of |G|^2 and tr(Sigma). Over several
                steps, the noise scale in examples is the sum of noise_trace over the sum of gradient_square
"trust_ratios"  ratios (layer to ratio), quantiles (min, p10, p50, p90, max)
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anybatch import files
from anybatch.errors import InputError
from anybatch.files import json_kind, read_object, sha256, write_json


class _Inside:
    """A path in a run's folder."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, run: "Run", kind: type["Run"]) -> Path:
        return run.path / self._name


@dataclass(frozen=True)
class Run:
    """Names and reads the contents of one run folder."""

    path: Path

    recipe_file = _Inside("recipe.json")
    environment_file = _Inside("environment.json")
    metrics_file = _Inside("metrics.jsonl")
    result_file = _Inside("result.json")
    sample_file = _Inside("sample.json")
    status_file = _Inside("status.json")
    tracker_file = _Inside("tracker.json")
    checkpoints = _Inside("checkpoints")

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def finished(self) -> bool:
        return self.result_file.exists()

    def recipe(self) -> dict[str, Any]:
        return read_object(self.recipe_file)

    def environment(self) -> dict[str, Any]:
        return read_object(self.environment_file)

    def result(self) -> dict[str, Any]:
        if not self.finished:
            raise InputError(f"{self.path}: the run has not finished; `anybatch train --run {self.path} --resume`")
        result = read_object(self.result_file)
        if not isinstance(result.get("final"), dict):
            raise InputError(f"{self.result_file}: damaged: it has no final scores; remove it and --resume the run")
        return result

    def sums(self) -> dict[str, str]:
        """Returns the SHA-256 of the files in `model`, by name."""
        return {file.name: sha256(file) for file in sorted(self.model.iterdir()) if file.is_file()}

    def sound_model(self) -> Path:
        """Returns `model` of a finished run; InputError if one of its files is not as the run wrote it."""
        written = self.result().get("model_files", {})
        if not isinstance(written, dict):
            raise InputError(f"{self.result_file}: damaged: model_files must be an object, not {json_kind(written)}")
        found = self.sums() if self.model.is_dir() else {}
        for name in written:
            if found.get(name) != written[name]:
                why = "damaged: its SHA-256 is not the one" if name in found else "no such file, but it is listed"
                raise InputError(
                    f"{self.model / name}: {why} in {self.result_file.name}; copy it again, or remove model/ and "
                    "result.json and --resume the run"
                )
        return self.model

    def metrics(self, event: str | None = None) -> list[dict[str, Any]]:
        """Returns the recorded events in order, all or those of one kind; skips a last line cut short by a kill."""
        try:
            lines = self.metrics_file.read_text(encoding="utf-8").split("\n")
        except FileNotFoundError:
            return []
        except UnicodeDecodeError as error:
            raise InputError(f"{self.metrics_file}: damaged: not UTF-8 text (byte {error.start})") from None
        events = []
        for number, line in enumerate(lines[:-1], start=1):
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{self.metrics_file}:{number}: damaged: not valid JSON: {error}") from None
            if wrong := _wrong(value):
                raise InputError(f"{self.metrics_file}:{number}: damaged: {wrong}; remove this line and the later ones")
            events.append(value)
        return [item for item in events if event is None or item["event"] == event]

    def set_status(self, outcome: str, step: int, message: str = "") -> None:
        write_json(self.status_file, {"outcome": outcome, "step": step, "message": message})


def sound_model(folder: Path) -> Path:
    """Returns `folder`. If a finished run wrote it, a file that does not match its checksum is an InputError."""
    run = Run(folder.parent)
    return run.sound_model() if folder.name == run.model.name and run.finished else folder


_NUMBER, _OBJECT, _NOTHING = (int, float), (dict,), (type(None),)
# What is computed with, by the name of a value, and what an event cannot do without.
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("examples", "elapsed_s", "step_s", "data_wait_s", "skipped", "clipped", "spike"), _NUMBER),
    **dict.fromkeys(("loss", "lr", "grad_norm", "examples_per_s"), (*_NUMBER, *_NOTHING)),
    **dict.fromkeys(("losses", "accuracy", "ratios", "quantiles"), _OBJECT),
}
_NEEDED = {"train": {"loss"}, "eval": {"examples", "loss", "accuracy"}, "trust_ratios": {"ratios"}}


def _wrong(value: Any) -> str | None:
    """Returns the fault of a line of the metrics; None if there is none."""
    if not isinstance(value, dict) or not isinstance(value.get("event"), str):
        return "not an event"
    step = value.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        return f"step = {step!r} is not a number of steps"
    for name in sorted(_NEEDED.get(value["event"], set()) - set(value)):
        return f"{value['event']!r} has no {name!r}"
    for name, kinds in _KINDS.items():
        if name in value and (not isinstance(value[name], kinds) or isinstance(value[name], bool)):
            return f"{name} = {json.dumps(value[name])[:40]} is not {'an object' if kinds is _OBJECT else 'a number'}"
    return None


class InUse(InputError):
    """Another process holds the run folder: the run is alive."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the run folder for this process; InputError if another process has it."""
    with ExitStack() as held:
        try:
            # Perhaps only `in_use` holds it, for a moment.
            held.enter_context(files.locked(folder / ".run.lock", wait_s=0.2))
        except BlockingIOError:
            raise InUse(f"{folder}: in use by another process; wait for it, or choose another --run") from None
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be written ({error.strerror}); choose another folder with --run"
            ) from None
        yield


def in_use(folder: Path) -> bool:
    """Returns whether another process holds the run folder."""
    try:
        with locked(folder):
            return False
    except InUse:
        return True
    except InputError:  # there is none yet, or it may not be written
        return False


def open_run(path: Path) -> Run:
    """Returns the run in `path`; InputError if the folder is missing or is not a run."""
    run = Run(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; `anybatch train RECIPE --run {path}` makes one")
    if not run.recipe_file.is_file():
        raise InputError(f"{path}: not a run folder (it has no recipe.json)")
    return run
