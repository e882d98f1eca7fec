"""Synthetic run folders with the real schema: what the report's tests read, quick to write."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anybatch.comparison.rows import Reference, Row

REFERENCE_LR = {"lamb": 0.01, "adamw": 0.002}
LOSSES = {"lamb": {8: 4.27, 32: 4.35, 64: 4.44, 256: 5.19}, "adamw": {8: 4.25, 32: 4.41, 64: 4.73, 256: 5.92}}
NUM_EXAMPLES = 24_000
WARMUP_STEPS = 90


def layer_names(num_layers: int = 3) -> list[str]:
    embeddings = [f"bert.embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type")]
    parts = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
    parts += ["intermediate.dense", "output.dense"]
    layers = [f"bert.encoder.layer.{layer}.{part}.weight" for layer in range(num_layers) for part in parts]
    heads = ["bert.pooler.dense.weight", "cls.predictions.transform.dense.weight", "cls.seq_relationship.weight"]
    return embeddings + layers + heads


def _lines(path: Path, events: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(event) + "\n" for event in events))


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def _events(
    optimizer: str, batch: int, lr: float, num_steps: int, loss: float, seed: int, samples: int
) -> list[dict[str, Any]]:
    def event(kind: str, step: int, **values: Any) -> dict[str, Any]:
        return {"event": kind, "step": step, "examples": step * batch, "elapsed_s": step * 0.04, **values}

    def held_out(step: int) -> float:
        share = step / num_steps
        return loss + (9.0 - loss) * math.exp(-4.5 * share) * (1 - share) if math.isfinite(loss) else 8.5 + share

    def accuracy(step: int) -> dict[str, float]:
        return {"mlm": max(0.02, (9.2 - held_out(step)) / 14), "nsp": 0.5 + 0.1 * step / num_steps}

    events = [event("eval", 0, loss=9.0, losses={"mlm": 8.3, "nsp": 0.7}, accuracy={"mlm": 0.0, "nsp": 0.5})]
    for step in sorted({max(1, round(num_steps * k / 60)) for k in range(1, 61)}):
        warm = min(1.0, step / WARMUP_STEPS, max(0.0, 1 - (step - WARMUP_STEPS) / max(1, num_steps - WARMUP_STEPS)))
        noisy = held_out(step) + 0.1 * math.sin(step * 1.7 + seed)
        events.append(event("train", step, loss=noisy, losses={"mlm": noisy}, lr=lr * warm, grad_norm=1.0, skipped=0))
    for step in sorted({max(1, round(num_steps * k / 20)) for k in range(1, 21)}):
        value = held_out(step) if math.isfinite(loss) or step < num_steps / 2 else math.nan
        events.append(event("eval", step, loss=value, losses={"mlm": value - 0.6}, accuracy=accuracy(step)))
    for part in range(1, 41):
        step = max(1, round(num_steps * part / 40))
        trace = 30.0 + 5 * math.sin(part) + part
        events.append(event("noise", step, gradient_square=1.0 + 0.3 * math.cos(3 * part), noise_trace=trace))
    if optimizer == "lamb":
        for sample in range(1, samples + 1):
            step = max(1, round(num_steps * sample / samples))
            ratios = {
                name: 10 ** (0.4 * math.sin(k) + 1.2 * sample / samples - 0.3 * (k % 6)) * math.sqrt(8 / batch)
                for k, name in enumerate(layer_names())
            }
            events.append(event("trust_ratios", step, ratios=ratios))
    return events


def _write_run(
    folder: Path,
    optimizer: str = "lamb",
    batch: int = 8,
    *,
    loss: float | None = None,
    seed: int = 0,
    finished: bool = True,
    samples: int = 40,
    num_examples: int = NUM_EXAMPLES,
    reference_batch: int | None = 8,
    **result: Any,
) -> Path:
    """A pretraining run; `result` overrides what result.json says."""
    folder.mkdir(parents=True, exist_ok=True)
    if loss is None:
        loss = LOSSES.get(optimizer, LOSSES["lamb"]).get(batch, 4.5)
    reference_lr = REFERENCE_LR.get(optimizer, 0.005)
    lr = reference_lr * math.sqrt(batch / (reference_batch or 8))
    num_steps = math.ceil(num_examples / batch)
    reference = {"batch_size": reference_batch, "lr": reference_lr, "warmup_ratio": 0.03} if reference_batch else None
    phases = [{"batch_size": batch, "sequence_length": 64, "share": 1.0}]
    shape = {"hidden_size": 128, "num_layers": 3, "num_heads": 2}
    recipe = {"name": "bert-tiny", "task": "pretraining", "seed": seed, "optimizer": {"name": optimizer, "lr": None}}
    _json(folder / "recipe.json", {**recipe, "reference": reference, "phases": phases, "model": shape})
    versions = {"anybatch": "0.1.0", "torch": "2.13.0", "numpy": "2.4.0"}
    machine = {
        "processor": "Example CPU @ 2.4 GHz",
        "cores": 2,
        "threads": 2,
        "memory_bytes": 4 * 2**30,
        "device": "cpu",
    }
    command = ["anybatch", "train", "bert-tiny", "--batch-size", str(batch)]
    origin = {
        "started": "2026-01-02T03:04:05+00:00",
        "python": "3.11.2",
        "platform": "Linux",
        "git_revision": "abc1234",
    }
    _json(folder / "environment.json", {**origin, **machine, "versions": versions, "command": command})
    events = _events(optimizer, batch, lr, num_steps, loss, seed, samples)
    if not finished:
        _lines(folder / "metrics.jsonl", [event for event in events if event["step"] <= num_steps * 0.6])
        _json(folder / "status.json", {"outcome": "stopped", "step": round(num_steps * 0.6), "message": "SIGTERM"})
        return folder
    _lines(folder / "metrics.jsonl", events)
    accuracy = max(0.02, (9.2 - loss) / 14) if math.isfinite(loss) else 0.01
    final = {"loss": loss, "mlm_loss": loss - 0.6, "nsp_loss": 0.6, "mlm_accuracy": accuracy, "nsp_accuracy": 0.58}
    settings = {"recipe": "bert-tiny", "task": "pretraining", "optimizer": optimizer, "global_batch_size": batch}
    numbers = {"lr": lr, "warmup_steps": WARMUP_STEPS, "num_steps": num_steps, "num_examples": num_steps * batch}
    measured = {"wall_s": 30.0 + 400 / batch, "train_s": 28.0, "examples_per_s": 600.0 + batch, "skipped_steps": 0}
    run = {"seed": seed, "parameters": 1_234_567, "micro_batch_size": 8, "parent": None, "reference": reference}
    _json(folder / "result.json", {**settings, **numbers, **measured, **run, "final": final, **result})
    _json(folder / "status.json", {"outcome": "finished", "step": num_steps, "message": ""})
    return folder


def _write_questions(folder: Path, parent: str | None, f1: float, exact_match: float) -> Path:
    """A fine-tuning run whose pretraining run is `parent`, relative to its own folder."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = {"name": "squad-demo", "task": "questions", "seed": 0, "optimizer": {"name": "adamw", "lr": None}}
    _json(folder / "recipe.json", {**recipe, "phases": [{"batch_size": 16, "sequence_length": 96, "share": 1.0}]})
    _json(folder / "environment.json", {"cores": 2})
    _lines(folder / "metrics.jsonl", [{"event": "train", "step": 1, "examples": 16, "loss": 4.0, "lr": 1e-4}])
    final = {"exact_match": exact_match, "f1": f1, "loss": 3.1}
    settings = {"recipe": "squad-demo", "task": "questions", "optimizer": "adamw", "global_batch_size": 16, "lr": 1e-4}
    rest = {"num_steps": 40, "num_examples": 640, "seed": 0, "wall_s": 9.0, "examples_per_s": 80.0, "skipped_steps": 0}
    _json(folder / "result.json", {**settings, **rest, "final": final, "parent": parent, "reference": None})
    return folder


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Path]:
    return _write_run


@pytest.fixture(scope="session")
def write_questions() -> Callable[..., Path]:
    return _write_questions


def _record(optimizer: str = "lamb", batch: int = 8, loss: float | None = 4.0, **changes: Any) -> Row:
    """A finished pretraining run of 24,000 examples, scaled from batch 8 by the square-root rule."""
    reference = changes.pop("reference", Reference(8, REFERENCE_LR.get(optimizer, 0.005)))
    seed = changes.pop("seed", 0)
    base = reference or Reference(8, 0.01)
    num_steps = math.ceil(NUM_EXAMPLES / batch)
    values: dict[str, Any] = {"state": "finished", "message": "", "task": "pretraining", "recipe_name": "bert-tiny"}
    values |= {"recipe": {}, "environment": {}, "num_steps": num_steps, "num_examples": num_steps * batch}
    values |= {"warmup_steps": WARMUP_STEPS, "lr": (base.lr or 0.01) * math.sqrt(batch / base.batch)}
    values |= {"parameters": 1_234_567, "final": {"loss": loss}, "score": loss}
    name = f"{optimizer}-{batch}-{seed}"
    values |= {"path": Path("/runs") / name, "name": name, "optimizer": optimizer, "batch": batch, "seed": seed}
    return Row(reference=reference, **values | changes)


@pytest.fixture(scope="session")
def record() -> Callable[..., Row]:
    return _record


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two optimizers at batches 8 to 256, each fine-tuned: the folder that a demo leaves."""
    return write_study(tmp_path_factory.mktemp("study"))


def write_study(folder: Path) -> Path:
    for optimizer, losses in LOSSES.items():
        for batch, loss in losses.items():
            name = f"{optimizer}-{batch}"
            _write_run(folder / "pretraining" / name, optimizer, batch)
            f1 = 34 - 5 * loss + (1 if optimizer == "lamb" else 0)
            _write_questions(folder / "questions" / name, f"../../pretraining/{name}", f1, f1 * 0.6)
    return folder
