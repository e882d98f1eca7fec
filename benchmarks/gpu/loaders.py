"""Whether the host keeps up: text, decoded images, and ResNet-50 from memory and from files."""

import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch
from gpu import problems
from gpu.clocks import kernels, median_ms, whole_ms
from gpu.day import Day, Range, about
from image_decoding import in_memory, photograph, with_threads

from anybatch.data.images.views import num_threads
from anybatch.models.classifier import ClassifierSettings
from anybatch.recipes import change, find_recipe, train_recipe
from anybatch.recipes.tasks import build
from anybatch.runs import Run

GROUPS = (64, 128)
MEMORY = ("contiguous", "channels_last", "channels_last, searched")

LOADERS: dict[str, Range] = {
    "text: one thread": about("sequences/s", (3_000, None)),
    "decoding: one thread": about("images/s", (250, 700)),
    "decoding: all threads": about("images/s", (900, 6_000)),
    **{
        f"resnet-50 from memory, {group}, {way}": about("images/s", (1_500, 3_300))
        for group in GROUPS
        for way in MEMORY
    },
    "resnet-50 from files": about("images/s", (900, 2_900)),
    "resnet-50 from files: wait for data": about("share", (0, 0.6)),
    "resnet-50 from files: most host memory": about("GB", (1, 8)),
}


def loaders(day: Day) -> None:
    """The text reader's rate, decoding by threads, and ResNet-50 from memory and from files."""
    # Forked before anything here has used the GPU.
    files = _photographs(day.size(64, 2))
    _text(day)
    _decoding(day, files)
    _from_memory(day)
    _from_files(day, files)


def _photographs(count: int) -> list[bytes]:
    if count < 8:
        return [photograph(seed) for seed in range(count)]
    with ProcessPoolExecutor(num_threads(), mp_context=get_context("fork")) as pool:
        return list(pool.map(photograph, range(count)))


def _text(day: Day) -> None:
    """A BERT's masked batches out of the text that comes with Python, with one thread as the loader has."""
    name = "bert-demo" if day.tiny else "bert-tiny"
    changes = ["reference.num_examples=64", "phases.0.batch_size=16", "reference.batch_size=16"]
    if day.tiny:
        changes += ["data.tokenizer=characters", "data.num_held_out=8"]
    run = Run(day.scratch / "text")
    run.path.mkdir()
    examples = build(change(find_recipe(name), changes), run).phases[0].examples
    micro_batch, times = day.size(64, 4), day.size(100, 2)
    examples.read(0, micro_batch)
    started = time.perf_counter()
    for number in range(times):
        examples.read(number * micro_batch, micro_batch)
    day.figure("text: one thread", times * micro_batch / (time.perf_counter() - started))


def _decoding(day: Day, files: list[bytes]) -> None:
    images = in_memory(files)
    repeats = day.size(8, 1)
    for name, count in (("one thread", 1), ("all threads", num_threads())):
        views = with_threads(images, count)
        chosen = np.tile(np.arange(len(files)), repeats if count > 1 else 1)
        views(np.zeros(len(files), dtype=np.int64), np.arange(len(files)))
        started = time.perf_counter()
        views(np.zeros(len(chosen), dtype=np.int64), chosen)
        day.figure(f"decoding: {name}", len(chosen) / (time.perf_counter() - started))
    day.note("threads", num_threads())


def _from_memory(day: Day) -> None:
    """Forward and backward in bf16, images on the device: what the engine's loop cannot exceed."""
    architecture, size = ("lenet", 32) if day.tiny else ("resnet50", 224)
    settings = ClassifierSettings(architecture, 3, size, 10 if day.tiny else 1_000)
    problem = problems.images(settings)
    for group in GROUPS:
        for way in MEMORY:
            torch.backends.cudnn.benchmark = way.endswith("searched")
            layout = torch.contiguous_format if way == "contiguous" else torch.channels_last
            model = problem.model().to(day.device).to(memory_format=layout).train()
            batch = problem.examples.read(0, day.size(group, 2)).inputs
            inputs = {name: value.to(day.device) for name, value in batch.items()}
            inputs["images"] = inputs["images"].contiguous(memory_format=layout)
            call = _passes(model, inputs, day.device)
            taken = median_ms(whole_ms, call, day.device, day.size(10, 1))
            day.figure(f"resnet-50 from memory, {group}, {way}", 1e3 * day.size(group, 2) / taken)
            day.note(f"resnet-50 from memory, {group}, {way}: kernels", len(kernels(call, day.device)))
    torch.backends.cudnn.benchmark = False


def _passes(model: torch.nn.Module, inputs: dict[str, torch.Tensor], device: torch.device) -> Callable[[], None]:
    def call() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            sums, _ = model(**inputs)
        torch.stack(list(sums.values())).sum().backward()

    return call


def _from_files(day: Day, files: list[bytes]) -> None:
    """A few steps of ResNet-50 out of JPEGs in folders, each of a rank's share of 32K on eight GPUs."""
    data = day.scratch / "images"
    copies = day.size(512, 8)
    for part, count in (("train", copies), ("val", day.size(64, 4))):
        for number in range(count):
            folder = data / part / f"class{number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.jpg").write_bytes(files[number % len(files)])
    batch, steps = day.size(4_096, 4), day.size(3, 2)
    changes = [
        f"data.path={data}",
        "data.source_classes=null",
        f"reference.batch_size={batch}",
        f"reference.num_examples={batch * steps}",
        "reference.num_epochs=null",
        f"phases.0.batch_size={batch}",
        f"phases.0.image_size={day.size(224, 32)}",
        f"model.batch_norm_group={day.size(64, 2)}",
        "engine.num_evals=1",
        "engine.precision=bf16",
        "engine.checkpoint_every_steps=1000",
    ]
    if day.tiny:
        changes += ["model.architecture=resnet20", "model.width=1", "engine.precision=fp32"]
    run = day.scratch / "resnet-50"
    train_recipe(change(find_recipe("resnet50-paper"), changes), run)
    events = Run(run).metrics("train")[1:]
    seconds = sum(event["step_s"] for event in events)
    day.figure("resnet-50 from files", batch * len(events) / seconds)
    day.figure("resnet-50 from files: wait for data", sum(event["data_wait_s"] for event in events) / seconds)
    most = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    day.figure("resnet-50 from files: most host memory", most / 1e9)
