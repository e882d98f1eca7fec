"""Run folders and other trainers' logs as plain records: found at any depth, read once, every number finite or None."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anybatch.elsewhere import batch_of, is_log, read_log
from anybatch.errors import InputError
from anybatch.files import read_object
from anybatch.numbers import finite, whole
from anybatch.report.health import Health, observe
from anybatch.report.noise_scale import Stretch, stretches
from anybatch.runs import Run

_MAX_TEXT = 160
_MAX_SAMPLE = 1000
_ACCURACIES = ("top1", "mlm_accuracy", "lm_accuracy", "accuracy")
ELSEWHERE = "elsewhere"
"""The task of a run that another trainer has logged."""


Ratios = tuple[int, Mapping[str, float | None]]
"""A step and the trust ratio of each layer in it."""


@dataclass(frozen=True)
class Reference:
    """The tuned settings that a run was scaled from."""

    batch: int
    lr: float | None


@dataclass(frozen=True)
class Point:
    """One line of the metrics; None where it was missing or not finite."""

    step: int
    examples: int
    loss: float | None
    accuracy: float | None
    lr: float | None
    phase: int | None = None


@dataclass(frozen=True)
class Record:
    """What the report knows of one run. `state` is the run's outcome, 'finished' where it has a result.

    `lr_is_bound`: `lr` is the highest rate that another trainer logged; the run's peak may lie between two entries.

    `sample`: the start of a text, and how the model goes on from it. `context_free_loss` is what a model reaches that
    knows how frequent each token is and nothing else.
    """

    path: Path
    name: str
    state: str
    message: str
    task: str
    recipe_name: str
    optimizer: str
    batch: int
    seed: int | None
    reference: Reference | None
    recipe: Mapping[str, Any]
    environment: Mapping[str, Any]
    parent: Path | None = None
    lr: float | None = None
    lr_is_bound: bool = False
    warmup_steps: int | None = None
    hyperparameters: Mapping[str, str] = field(default_factory=dict)
    rule: str = "sqrt"
    ramp: str = ""
    num_steps: int | None = None
    num_examples: int | None = None
    parameters: int | None = None
    wall_s: float | None = None
    examples_per_s: float | None = None
    skipped_steps: int | None = None
    context_free_loss: float | None = None
    final: Mapping[str, float | None] = field(default_factory=dict)
    evals: Sequence[Point] = ()
    trains: Sequence[Point] = ()
    ratios: Sequence[Ratios] = ()
    health: Health | None = None
    noise: Sequence[Stretch] = ()
    tracker: Mapping[str, Any] = field(default_factory=dict)
    sample: tuple[str, str] | None = None

    @property
    def finished(self) -> bool:
        return self.state == "finished"

    @property
    def loss(self) -> float | None:
        return self.final.get("loss")

    @property
    def diverged(self) -> bool:
        """Finished, and its held-out loss is not a finite number."""
        return self.finished and self.task != "questions" and self.loss is None

    @property
    def accuracy(self) -> float | None:
        return next((self.final[name] for name in _ACCURACIES if name in self.final), None)


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Every run folder at or under `paths`, each once, in the order of their paths.

    Raises InputError where a path does not exist or none of them holds a run.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise InputError(f"{path}: no such folder; give a run folder or a folder that holds run folders")
        found.update(dict.fromkeys(_under(path)))
    if not found:
        where = ", ".join(str(path) for path in paths) or "no folder given"
        raise InputError(
            f"{where}: no run found (a run folder has a recipe.json; a Hugging Face Trainer's a trainer_state.json; or "
            "event files of TensorBoard); `anybatch train` makes one"
        )
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    """lamb-32 before lamb-256."""
    parts = re.split(r"([0-9]+)", str(path))
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _under(path: Path) -> Iterator[Path]:
    for folder, children, files in os.walk(path):
        if "recipe.json" in files or is_log(Path(folder)):
            yield Path(folder).resolve()
            children.clear()
        # A hidden folder is one that `files.new_folder` has not finished.
        children[:] = sorted(child for child in children if not child.startswith("."))


def load(paths: Sequence[Path], batch_sizes: Mapping[str, int] | None = None) -> list[Record]:
    """All runs at or under `paths`. Raises InputError for a run whose files cannot be read.

    Args:
        batch_sizes: global batches by folder, of logs that do not say.
    """
    folders = find_runs(paths)
    top = Path(os.path.commonpath([folder.parent for folder in folders]))
    return [
        _record(Run(folder), str(folder.relative_to(top)))
        if (folder / "recipe.json").is_file()
        else _of_log(folder, str(folder.relative_to(top)), batch_of(folder, batch_sizes or {}))
        for folder in folders
    ]


def _of_log(folder: Path, name: str, batch: int | None) -> Record:
    """What another trainer's log tells; its last held-out loss is its final one, and without one it has not finished.

    Such runs are held to the one of the smallest batch. Optimizer, rule and peak rate are known if an integration of
    anybatch recorded them.
    """
    log = read_log(folder, batch)
    scores, losses = dict(log.of("accuracy")), log.of("eval_loss")
    rates = dict(log.of("lr"))
    squares, traces = dict(log.of("square")), dict(log.of("trace"))
    measured = [
        {"event": "noise", "examples": step * log.batch, "gradient_square": square, "noise_trace": traces[step]}
        for step, square in squares.items()
        if step in traces
    ]
    finished = bool(losses) and log.finished is not False
    seconds = finite(log.of("runtime")[-1][1]) if log.of("runtime") else None
    final = {"loss": finite(losses[-1][1])} if losses else {}
    peak, tuned = log.peak, whole(log.setting("reference_batch_size"))
    return Record(
        path=folder,
        name=text(name),
        state="finished" if finished else "unfinished",
        message="" if losses else "no held-out loss was logged",
        task=ELSEWHERE,
        recipe_name="other trainers",
        optimizer=text(log.word("optimizer") or "unknown optimizer"),
        batch=log.batch,
        seed=None,
        reference=Reference(tuned, finite(log.setting("reference_lr"))) if tuned else None,
        recipe={},
        environment={},
        lr=peak[0] if peak else log.highest_rate,
        lr_is_bound=peak is None,
        warmup_steps=peak[1] if peak else None,
        rule=text(log.word("rule") or "sqrt"),
        num_steps=log.num_steps,
        num_examples=log.num_steps * log.batch,
        wall_s=seconds,
        examples_per_s=log.num_steps * log.batch / seconds if seconds else None,
        final={**final, "accuracy": finite(scores[max(scores)])} if scores else final,
        evals=[Point(step, step * log.batch, finite(loss), finite(scores.get(step)), None) for step, loss in losses],
        trains=[
            Point(step, step * log.batch, finite(loss), None, finite(rates.get(step))) for step, loss in log.of("loss")
        ],
        noise=stretches(measured),
    )


def _record(run: Run, name: str) -> Record:
    recipe = read_object(run.recipe_file)
    result = read_object(run.result_file) if run.finished else {}
    status = read_object(run.status_file) if run.status_file.is_file() else {}
    events = [event for event in run.metrics() if isinstance(event, dict)]
    evals, trains = ([_point(e) for e in events if e.get("event") == kind] for kind in ("eval", "train"))
    phases = recipe.get("phases")
    phase = _mapping(phases[0]) if isinstance(phases, list) and phases else {}
    reference = _mapping(result["reference"] if "reference" in result else recipe.get("reference"))
    reference_batch = whole(reference.get("batch_size"))
    batch = whole(result.get("global_batch_size")) or whole(phase.get("batch_size")) or _batch_of(trains)
    if not batch:
        raise InputError(f"{run.path}: neither result.json nor recipe.json gives the batch size")
    steps = whole(result.get("num_steps")) or (trains[-1].step if trains else None)
    parent = result.get("parent")
    return Record(
        path=run.path,
        name=text(name),
        state="finished" if run.finished else text(status.get("outcome") or "unfinished"),
        message=text(status.get("message") or ""),
        task=text(result.get("task") or recipe.get("task") or "pretraining"),
        recipe_name=text(result.get("recipe") or recipe.get("name") or "unnamed"),
        optimizer=text(result.get("optimizer") or _mapping(recipe.get("optimizer")).get("name") or "unknown"),
        batch=batch,
        seed=whole(result.get("seed", recipe.get("seed"))),
        reference=Reference(reference_batch, finite(reference.get("lr"))) if reference_batch else None,
        recipe=recipe,
        environment=read_object(run.environment_file) if run.environment_file.is_file() else {},
        parent=Path(parent) if isinstance(parent, str) and parent else None,
        lr=finite(result.get("lr")) or max((p.lr for p in trains if p.lr is not None), default=None),
        warmup_steps=whole(result.get("warmup_steps")),
        hyperparameters=_numbers(_mapping(result.get("hyperparameters"))),
        rule=text(_mapping(recipe.get("reference")).get("rule") or "sqrt"),
        ramp=_ramp(phases) if recipe.get("ramp") is True and isinstance(phases, list) else "",
        num_steps=steps,
        num_examples=whole(result.get("num_examples")) or (trains[-1].examples if trains else None),
        parameters=whole(result.get("parameters")),
        wall_s=finite(result.get("wall_s")),
        examples_per_s=finite(result.get("examples_per_s")),
        skipped_steps=whole(result.get("skipped_steps")),
        context_free_loss=finite(result.get("context_free_loss")),
        final={text(key): finite(value) for key, value in _mapping(result.get("final")).items()},
        evals=evals,
        trains=trains,
        health=observe(events),
        noise=stretches(events),
        tracker=read_object(run.tracker_file) if run.tracker_file.is_file() else {},
        sample=_sample(run),
        ratios=_adapted(
            [
                (whole(e.get("step")) or 0, {text(key): finite(value) for key, value in e["ratios"].items()})
                for e in events
                if e.get("event") == "trust_ratios" and isinstance(e.get("ratios"), dict) and e["ratios"]
            ]
        ),
    )


def _sample(run: Run) -> tuple[str, str] | None:
    """The start of a held-out text, and how the finished model goes on from it."""
    sample = read_object(run.sample_file) if run.sample_file.is_file() else {}
    start, words = (text(sample.get(name) or "", _MAX_SAMPLE) for name in ("start", "text"))
    return (start, words) if words else None


def _ramp(phases: Sequence[Any]) -> str:
    """The batches of a run whose batch grows, as '32 to 256'."""
    batches = [whole(_mapping(phase).get("batch_size")) or 0 for phase in phases]
    return f"{batches[0]:,} to {batches[-1]:,}" if batches else ""


def _numbers(values: Mapping[str, Any]) -> dict[str, str]:
    """Hyperparameters beside the learning rate as a page shows them: betas as '0.9 0.999'."""
    shown = {}
    for name, value in values.items():
        numbers = [finite(each) for each in value] if isinstance(value, list) else [finite(value)]
        if name != "lr" and numbers and None not in numbers:
            shown[text(name).replace("_", " ")] = " ".join(f"{number:.6g}" for number in numbers)
    return shown


def _adapted(samples: Sequence[Ratios]) -> list[Ratios]:
    """The samples without the layers whose ratio is 1 throughout: those are not adapted, and would say nothing."""
    names = {name for _, ratios in samples for name, ratio in ratios.items() if ratio != 1}
    kept = [(step, {name: ratio for name, ratio in ratios.items() if name in names}) for step, ratios in samples]
    return [(step, ratios) for step, ratios in kept if ratios]


def _point(event: Mapping[str, Any]) -> Point:
    accuracy = event.get("accuracy")
    if isinstance(accuracy, dict):
        accuracy = next((accuracy[name] for name in ("label", "mlm", "lm") if name in accuracy), None)
    return Point(
        step=whole(event.get("step")) or 0,
        examples=whole(event.get("examples")) or 0,
        loss=finite(event.get("loss")),
        accuracy=finite(accuracy),
        lr=finite(event.get("lr")),
        phase=whole(event.get("phase")),
    )


def _batch_of(trains: Sequence[Point]) -> int | None:
    return round(trains[0].examples / trains[0].step) if trains and trains[0].step else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def text(value: Any, most: int = _MAX_TEXT) -> str:
    """`value` as one printable line of bounded length; HTML escaping is left to the page."""
    line = "".join(letter if letter.isprintable() else " " for letter in str(value))
    return line if len(line) <= most else line[: most - 1] + "…"
