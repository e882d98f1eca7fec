"""Run folders and other trainers' logs as rows: found at any depth, read once, every number finite or None."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from anybatch.comparison.rows import ELSEWHERE, Point, Reference, Row, adapted, observe, stretches
from anybatch.comparison.wording import text
from anybatch.elsewhere import batch_of, is_log, read_log
from anybatch.errors import InputError
from anybatch.files import read_object
from anybatch.numbers import finite, hyperparameter, whole
from anybatch.runs import Run

_MAX_SAMPLE = 1000


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Finds every run folder at or under `paths`, each once, in the order of their paths.

    Raises InputError if a path does not exist or none of them holds a run.
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
    """Returns a key that sorts lamb-32 before lamb-256."""
    parts = re.split(r"([0-9]+)", str(path))
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _under(path: Path) -> Iterator[Path]:
    for folder, children, files in os.walk(path):
        if "recipe.json" in files or is_log(Path(folder)):
            yield Path(folder).resolve()
            children.clear()
        # A hidden folder is an unfinished one of `files.new_folder`.
        children[:] = sorted(child for child in children if not child.startswith("."))


def load(paths: Sequence[Path], batch_sizes: Mapping[str, int] | None = None) -> list[Row]:
    """Loads all runs at or under `paths`. Raises InputError for a run whose files cannot be read.

    Args:
        batch_sizes: global batches by folder, for logs without one.
    """
    folders = find_runs(paths)
    top = Path(os.path.commonpath([folder.parent for folder in folders]))
    rows = []
    for folder in folders:
        name, is_run = str(folder.relative_to(top)), (folder / "recipe.json").is_file()
        rows.append(read_run(folder, name) if is_run else _read_log(folder, name, batch_of(folder, batch_sizes or {})))
    return rows


def _read_log(folder: Path, name: str, batch: int | None) -> Row:
    """Reads another trainer's log; its last held-out loss is its score, and without one it has not finished.

    Such runs are compared with the one of the smallest batch. Optimizer, rule and peak learning rate are known if an
    integration of anybatch recorded them.
    """
    log = read_log(folder, batch)
    scores, losses, rates, traces = (
        dict(log.of("accuracy")),
        log.of("eval_loss"),
        dict(log.of("lr")),
        dict(log.of("trace")),
    )
    measured = [
        {"event": "noise", "examples": step * log.batch, "gradient_square": square, "noise_trace": traces[step]}
        for step, square in dict(log.of("square")).items()
        if step in traces
    ]
    seconds = finite(log.of("runtime")[-1][1]) if log.of("runtime") else None
    loss = finite(losses[-1][1]) if losses else None
    peak, tuned = log.peak, whole(log.setting("reference_batch_size"))
    return Row(
        path=folder,
        name=text(name),
        state="finished" if losses and log.finished is not False else "unfinished",
        message="" if losses else "no held-out loss was logged",
        task=ELSEWHERE,
        recipe_name="other trainers",
        optimizer=text(log.word("optimizer") or "unknown optimizer"),
        batch=log.batch,
        seed=None,
        score=loss,
        reference=Reference(tuned, finite(log.setting("reference_lr"))) if tuned else None,
        lr=peak[0] if peak else log.highest_rate,
        lr_is_bound=peak is None,
        warmup_steps=peak[1] if peak else None,
        rule=text(log.word("rule") or "sqrt"),
        num_steps=log.num_steps,
        num_examples=log.num_steps * log.batch,
        wall_s=seconds,
        examples_per_s=log.num_steps * log.batch / seconds if seconds else None,
        final={"loss": loss} | ({"accuracy": finite(scores[max(scores)])} if scores else {}),
        evals=[Point(step, step * log.batch, finite(loss), finite(scores.get(step))) for step, loss in losses],
        trains=[
            Point(step, step * log.batch, finite(loss), None, finite(rates.get(step))) for step, loss in log.of("loss")
        ],
        noise=stretches(measured),
    )


def read_run(folder: Path, name: str) -> Row:
    """Reads the run in a run folder."""
    run = Run(folder)
    recipe = read_object(run.recipe_file)
    result = read_object(run.result_file) if run.finished else {}
    status, sample = _read(run.status_file), _read(run.sample_file)
    events = run.metrics()
    evals, trains = ([_point(e) for e in events if e.get("event") == kind] for kind in ("eval", "train"))
    phases = [_mapping(phase) for phase in recipe["phases"]] if isinstance(recipe.get("phases"), list) else []
    batches = [whole(phase.get("batch_size")) or 0 for phase in phases]
    optimizer, declared = _mapping(recipe.get("optimizer")), _mapping(recipe.get("reference"))
    reference = _mapping(result["reference"]) if "reference" in result else declared
    tuned = whole(reference.get("batch_size"))
    first = round(trains[0].examples / trains[0].step) if trains and trains[0].step else None
    batch = whole(result.get("global_batch_size")) or (batches and batches[0]) or first
    if not batch:
        raise InputError(f"{run.path}: neither result.json nor recipe.json gives the batch size")
    parent = result.get("parent")
    final = {text(key): finite(value) for key, value in _mapping(result.get("final")).items()}
    layers = [
        (whole(e.get("step")) or 0, _mapping(e.get("ratios"))) for e in events if e.get("event") == "trust_ratios"
    ]
    ratios = [(step, {text(name): finite(x) for name, x in values.items()}) for step, values in layers if values]
    start, words = (text(sample.get(name) or "", _MAX_SAMPLE) for name in ("start", "text"))
    return Row(
        path=run.path,
        name=text(name),
        state="finished" if run.finished else text(status.get("outcome") or "unfinished"),
        message=text(status.get("message") or ""),
        task=text(result.get("task") or recipe.get("task") or "pretraining"),
        recipe_name=text(result.get("recipe") or recipe.get("name") or "unnamed"),
        optimizer=text(result.get("optimizer") or optimizer.get("name") or "unknown"),
        batch=batch,
        seed=whole(result.get("seed", recipe.get("seed"))),
        score=final.get("loss"),
        reference=Reference(tuned, finite(reference.get("lr"))) if tuned else None,
        recipe=recipe,
        environment=_read(run.environment_file),
        parent=Path(parent) if isinstance(parent, str) and parent else None,
        lr=finite(result.get("lr")) or max((p.lr for p in trains if p.lr is not None), default=None),
        warmup_steps=whole(result.get("warmup_steps")),
        hyperparameters=_numbers(_mapping(result.get("hyperparameters"))),
        rule=text(declared.get("rule") or "sqrt"),
        ramp=f"{batches[0]:,} to {batches[-1]:,}" if batches and recipe.get("ramp") is True else "",
        num_steps=whole(result.get("num_steps")) or (trains[-1].step if trains else None),
        num_examples=whole(result.get("num_examples")) or (trains[-1].examples if trains else None),
        parameters=whole(result.get("parameters")),
        wall_s=finite(result.get("wall_s")),
        examples_per_s=finite(result.get("examples_per_s")),
        skipped_steps=whole(result.get("skipped_steps")),
        context_free_loss=finite(result.get("context_free_loss")),
        final=final,
        evals=evals,
        trains=trains,
        health=observe(events),
        noise=stretches(events),
        tracker=_read(run.tracker_file),
        sample=(start, words) if words else None,
        ratios=adapted(ratios),
    )


def _read(file: Path) -> dict[str, Any]:
    return read_object(file) if file.is_file() else {}


def _numbers(values: Mapping[str, Any]) -> dict[str, str]:
    """Returns hyperparameters besides the learning rate, as a page shows them."""
    shown = {}
    for name, value in values.items():
        numbers = [finite(each) for each in (value if isinstance(value, list) else [value])]
        if name != "lr" and numbers and None not in numbers:
            shown[text(name).replace("_", " ")] = hyperparameter(numbers)
    return shown


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


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
