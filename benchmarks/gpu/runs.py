"""Whole runs by the command line: stop, resume and eval; DavidNet to 94 %; BERT-small over batch and optimizer."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu import problems
from gpu.clocks import settle
from gpu.commands import Ran, anybatch
from gpu.day import Day, Range, Skipped, about, needed

from anybatch.engine import Ranks, checkpoint
from anybatch.engine.checkpoint import Retention
from anybatch.runs import Run

STOPPED = 75

END_TO_END: dict[str, Range] = {
    "stopped: exit code": needed("code", STOPPED, STOPPED),
    "resumed: exit code": needed("code", 0, 0),
    "undisturbed: exit code": needed("code", 0, 0),
    "eval: exit code": needed("code", 0, 0),
    "eval: accuracy": needed("share", 0.05, 1),
    "resumed: bits differ": about("parameters", (0, None)),
    "resumed, deterministic: bits differ": needed("parameters", 0, 0),
    "deterministic: step over the ordinary one": about("times", (1, 2)),
    "checkpoint of BERT-large: steps stand still": about("s", (0.5, 12)),
    "checkpoint of BERT-large, beside the steps: steps stand still": about("s", (0.05, 2.5)),
}


def end_to_end(day: Day) -> None:
    """A run that is stopped half-way and resumed, beside one that is not; its evaluation; then a large checkpoint."""
    steps, batch = day.size(60, 4), day.size(64, 16)
    seconds = {}
    for title, more in (("", ["engine.deterministic=false"]), (", deterministic", ["engine.deterministic=true"])):
        sets = [f"reference.num_examples={steps * batch}", "reference.num_epochs=null", "engine.num_evals=1", *more]
        if day.tiny:
            sets.append("reference.batch_size=16")

        def train(run: Path, *extra: str, sets: list[str] = sets) -> Ran:
            changes = [word for change in (*sets, *extra) for word in ("--set", change)]
            return anybatch(day, "train", "digits-lenet", "--batch-size", str(batch), "--run", run, *changes)

        cut, whole = day.scratch / f"cut{title[2:]}", day.scratch / f"whole{title[2:]}"
        stopped = train(cut, f"engine.stop_after_steps={steps // 2}")
        resumed = anybatch(day, "train", "--run", cut, "--resume", "--set", "engine.stop_after_steps=null")
        undisturbed = train(whole)
        day.note(f"texts{title}", [ran.text[-1_000:] for ran in (stopped, resumed, undisturbed)])
        day.figure(f"resumed{title}: bits differ", _differing(cut, whole))
        taken = [event["step_s"] for event in Run(whole).metrics("train")]
        seconds[title] = sorted(taken)[len(taken) // 2]
        if not title:
            day.figure("stopped: exit code", stopped.code)
            day.figure("resumed: exit code", resumed.code)
            day.figure("undisturbed: exit code", undisturbed.code)
            evaluated = anybatch(day, "eval", whole, "--json")
            day.note("eval", evaluated.text[-1_000:])
            day.figure("eval: exit code", evaluated.code)
            day.figure("eval: accuracy", float(Run(whole).result()["final"]["top1"]))
    day.figure("deterministic: step over the ordinary one", seconds[", deterministic"] / seconds[""])
    _checkpoints(day)


def _differing(one: Path, other: Path) -> int:
    """Tensors of two runs' models that have not the same bits."""
    from safetensors.torch import load_file

    pair = [load_file(Run(path).model / "model.safetensors") for path in (one, other)]
    return sum(not torch.equal(pair[0][name], pair[1][name]) for name in pair[0])


def _checkpoints(day: Day) -> None:
    """How long the steps wait for a checkpoint of BERT-large: written at once, or copied and written beside them."""
    settings = problems.large(day.tiny)
    problem = problems.bert(settings, day.size(128, 16))
    steps = problems.Steps.of(problems.job(problem, day.device, 4, 1, precision="bf16"))
    steps.take(problems.share(problem, 4, 1, day.device))
    ranks = Ranks()

    def copied() -> checkpoint.Content:
        job = steps.job
        return checkpoint.content(1, job.model, job.optimizer, {}, ranks, phase=0, held_out_loss=None)

    folder = day.scratch / "checkpoints"
    folder.mkdir()
    whole = _seconds(lambda: checkpoint.write(folder, copied(), ranks, Retention()), day)
    copied()
    day.figure("checkpoint of BERT-large: steps stand still", whole)
    day.figure("checkpoint of BERT-large, beside the steps: steps stand still", _seconds(copied, day))


def _seconds(call: Callable[[], Any], day: Day) -> float:
    settle(day.device)
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


DAVIDNET: dict[str, Range] = {
    "accuracy after 24 epochs": about("share", (0.94, 1)),
    "epochs to 94 %": about("epochs", (15, 24)),
    "time of the steps": about("s", (10, 150)),
    "images a second": about("images/s", (8_000, 60_000)),
}


def davidnet(day: Day) -> None:
    """DavidNet on CIFAR-10, LAMB, batch 512, 24 epochs: the paper's appendix reports .9408."""
    data = day.paths.get("cifar")
    sets = ["engine.precision=bf16", "engine.num_evals=24"]
    if day.tiny and data is None:
        data = _toy_images(day.scratch / "images")
        sets = ["model.width=1", "reference.batch_size=8", "phases.0.batch_size=8", "reference.num_epochs=1",
                "model.batch_norm_group=8", "engine.num_evals=1"]  # fmt: skip
    if data is None:
        raise Skipped("no CIFAR-10: give its folder with --cifar")
    run = day.scratch / "run"
    changes = [word for change in (f"data.path={data}", *sets) for word in ("--set", change)]
    ran = anybatch(day, "train", "cifar10-davidnet", "--run", run, *changes)
    day.note("text", ran.text[-2_000:])
    if ran.code:
        raise RuntimeError(f"exit code {ran.code}: {ran.text[-500:]}")
    events = Run(run).metrics("train")
    seconds = sum(event["step_s"] for event in events)
    day.figure("time of the steps", seconds)
    day.figure("images a second", events[-1]["examples"] / seconds)
    evals = [(event["examples"], _accuracy_of(event)) for event in Run(run).metrics("eval")]
    day.note("accuracy by examples", evals)
    if day.tiny:
        raise Skipped("a tiny run learns nothing")
    day.figure("accuracy after 24 epochs", evals[-1][1])
    reached = next((examples for examples, accuracy in evals if accuracy >= 0.94), None)
    if reached is None:
        day.none("epochs to 94 %", "not reached")
    else:
        day.figure("epochs to 94 %", 24 * reached / evals[-1][0])


def _accuracy_of(event: dict[str, Any]) -> float:
    return float(event["accuracy"]["label"])


def _toy_images(folder: Path) -> Path:
    from PIL import Image

    for part, count in (("train", 16), ("test", 4)):
        for number in range(count):
            target = folder / part / f"class{number % 2}" / f"{number}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (255 * (number % 2), 0, number)).save(target)
    return folder


OPTIMIZERS = ("lamb", "adamw")
MULTIPLES = (1, 4, 16, 64)
BATCH = 32
# Neither is tuned: the recipe's, and what is usual for a BERT of this size.
RATES = {"lamb": 0.01, "adamw": 5e-4}

BERT_SMALL: dict[str, Range] = {
    **{f"{name}, {times} b: held-out loss": about("nats", (1.5, 8)) for name in OPTIMIZERS for times in MULTIPLES},
    **{f"{name}, {times} b: F1": about("%", (5, 80)) for name in OPTIMIZERS for times in MULTIPLES},
    **{f"{name}, {times} b: steps": about("s", (2, 120)) for name in OPTIMIZERS for times in MULTIPLES},
    "lamb: F1 at 64 b over F1 at b": about("times", (0.9, 1.2)),
    "adamw: F1 at 64 b over F1 at b": about("times", (0.2, 1.2)),
}


def bert_small(day: Day) -> None:
    """BERT-small at b = 32 and 4, 16 and 64 times that, the rate by the rule, then fine-tuned on questions."""
    optimizers, multiples = (OPTIMIZERS[:1], MULTIPLES[:1]) if day.tiny else (OPTIMIZERS, MULTIPLES)
    if not day.tiny and (day.paths.get("shards") is None or day.paths.get("squad") is None):
        raise Skipped("no prepared shards, or no questions: give --shards DIR and --squad DIR (train.json, dev.json)")
    scores: dict[tuple[str, int], float] = {}
    # The two ends first: what the limit cuts off is the middle.
    for times in sorted(multiples, key=lambda times: times not in (MULTIPLES[0], MULTIPLES[-1])):
        for name in optimizers:
            try:
                scores[name, times] = _pretrained_and_asked(day, name, times)
            except RuntimeError as error:
                for what in ("held-out loss", "F1", "steps"):
                    day.none(f"{name}, {times} b: {what}", str(error))
        for name in optimizers:
            if {(name, 1), (name, 64)} <= scores.keys() and scores[name, 1] > 0:
                day.figure(f"{name}: F1 at 64 b over F1 at b", scores[name, 64] / scores[name, 1])
    if day.tiny:
        if not scores:
            raise RuntimeError("; ".join(day.reasons.values()))
        raise Skipped("left out of a tiny run")


def _pretrained_and_asked(day: Day, name: str, times: int) -> float:
    """F1 of a model that was pretrained with optimizer `name` at `times` the batch, and fine-tuned with AdamW."""
    shards, squad = day.paths.get("shards"), day.paths.get("squad")
    what, text, answers = f"{name}, {times} b", day.scratch / f"{name}-{times}", day.scratch / f"{name}-{times}-answers"
    rates = [f"optimizer.name={name}", f"reference.lr={RATES[name]}", "reference.warmup_ratio=0.003125"]
    sets = [*rates, "engine.num_evals=1"]
    if shards is not None:
        sets += [f"data.path={shards}", "reference.num_examples=131072", "engine.precision=bf16"]
    if day.tiny:
        sets += ["model.hidden_size=16", "model.num_layers=1", "model.num_heads=2", "data.tokenizer=characters",
                 "reference.num_examples=32", "data.num_held_out=8", "phases.0.sequence_length=32",
                 "reference.batch_size=8"]  # fmt: skip
    batch = day.size(BATCH, 8) * times
    _done(day, what, "train", "bert-small", "--batch-size", str(batch), "--run", text, sets=sets)
    day.figure(f"{what}: steps", sum(event["step_s"] for event in Run(text).metrics("train")))
    day.figure(f"{what}: held-out loss", Run(text).metrics("eval")[-1]["loss"])
    sets = [f"model.path={text}"]
    if squad is not None:
        # Ten times the rate for models that read billions of words: this one starts nearly anew.
        sets += [f"data.path={squad / 'train.json'}", "engine.precision=bf16", "reference.lr=3e-4"]
    if day.tiny:
        sets += ["phases.0.sequence_length=32", "data.stride=4", "reference.num_epochs=0.05",
                 "engine.num_evals=1", "phases.0.batch_size=8", "reference.batch_size=8"]  # fmt: skip
    _done(day, f"{what}, questions", "train", "squad-demo" if day.tiny else "squad", "--run", answers, sets=sets)
    asked = ["--squad", squad / "dev.json"] if squad is not None else []
    f1 = _f1(_done(day, f"{what}, eval", "eval", answers, *asked, "--json"))
    day.figure(f"{what}: F1", f1)
    return f1


def _done(day: Day, what: str, *arguments: str | Path, sets: list[str] | None = None) -> str:
    """What a command printed, which must succeed."""
    ran = anybatch(day, *arguments, *[word for change in sets or [] for word in ("--set", change)])
    day.note(what, {"seconds": ran.seconds, "printed": ran.text[-300:]})
    if ran.code:
        raise RuntimeError(f"{what}: exit code {ran.code}: {ran.text[-500:]}")
    return ran.text


def _f1(printed: str) -> float:
    return float(json.loads(printed[printed.index("{") :])["f1"])
