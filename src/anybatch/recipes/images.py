"""Builds a run on labeled images, and scores it: top-1, top-5, which classes are taken for which, what went worst."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from anybatch.data.images.finding import find_images
from anybatch.data.images.folder import WITHOUT_IMAGES
from anybatch.data.images.idx import digits
from anybatch.data.images.processes import ProcessViews
from anybatch.data.images.sets import ImageSet, Labels, folded
from anybatch.data.images.source import ImageSource, late_batches
from anybatch.data.images.views import (
    Cropping,
    FileViews,
    MemoryViews,
    Views,
    check_readable,
    decode_all,
    num_threads,
)
from anybatch.engine import Batch
from anybatch.engine.devices import local_device
from anybatch.engine.job import Scores
from anybatch.environment import half_of_memory
from anybatch.errors import InputError
from anybatch.evaluation.image_scores import judge
from anybatch.models.classifier import (
    ClassifierSettings,
    ImageClassifier,
    classifier_flops,
    has_batch_norm,
    image_classifier,
)
from anybatch.recipes.change import with_stand_in
from anybatch.recipes.freed_memory import keep_freed_memory
from anybatch.recipes.recipe import ImagePhaseSettings, ImageRecipe
from anybatch.recipes.task import Outline, Task, fresh, numbers
from anybatch.runs import Run


@dataclass(frozen=True)
class Side:
    """The images for training, or those held out; `labels` are those of the examples that `views` shows."""

    images: ImageSet
    views: Views
    labels: Labels
    numbers: Labels

    def name(self, example: int) -> str:
        return self.images.name(int(self.numbers[example]))


class Images(Task[ImageRecipe]):
    """Telling classes of images apart. Images that cannot be read are named, once each, in RUN/skipped-images.txt."""

    accuracies: ClassVar = {"label": "top-1 accuracy", "label_top5": "top-5 accuracy"}

    def __init__(self, recipe: ImageRecipe, run: Run) -> None:
        super().__init__(recipe, run)
        _check(recipe)
        keep_freed_memory()
        self.group_size = recipe.model.batch_norm_group
        self.skipped = Skipped(run.path / "skipped-images.txt")
        self.training, self.reserved = open_images(recipe)
        notes = (*self.training.notes, *self.reserved.notes, *_unused(recipe, self.training))
        for note in dict.fromkeys(notes):
            self.skipped.note(note)
        self._sides: dict[tuple[int, bool], Side] = {}

    @staticmethod
    def outline(recipe: ImageRecipe) -> Outline:
        words = recipe.data.stand_in
        training, held_out = open_images(with_stand_in(recipe))
        size = max(phase.image_size for phase in recipe.phases)
        model = fresh(lambda: image_classifier(network_settings(recipe, training, size), recipe.seed))

        def inputs(phase: Any, count: int) -> dict[str, Tensor]:
            images = torch.empty(count, len(recipe.data.mean), phase.image_size, phase.image_size, device="meta")
            return {"images": images, "labels": numbers(count)}

        supposed = () if words is None else (f"{words}, for data.path is not set",)
        return Outline(model, inputs, len(held_out.labels), len(training.labels), supposed)

    @classmethod
    def describe(cls, recipe: ImageRecipe) -> tuple[str, str]:
        model, data, size = recipe.model, recipe.data, recipe.phases[0].image_size
        width = f", {model.width} wide" if model.width else ""
        return (
            f"The network {model.architecture}{width}",
            f"{data.path or data.builtin or 'images'} ({size} x {size} pixels)",
        )

    def _settings(self, size: int) -> ClassifierSettings:
        return network_settings(self.recipe, self.training, size)

    def model(self) -> ImageClassifier:
        return fresh(lambda: image_classifier(self._settings(self.recipe.phases[-1].image_size), self.recipe.seed))

    def source(self, phase: ImagePhaseSettings) -> ImageSource:
        data, smallest = self.recipe.data, min(phase.image_size for phase in self.recipe.phases)
        if data.cutout > smallest:
            raise InputError(f"data.cutout = {data.cutout}: must be at most the size of the images, {smallest}")
        side = self._side(phase.image_size, training=True)
        raw = local_device().type == "cuda"
        return ImageSource(side.views, side.labels, data, self.recipe.seed, mixing=data, raw=raw)

    def flops(self, phase: ImagePhaseSettings) -> float:
        return classifier_flops(self._settings(phase.image_size))

    def left_out(self) -> str:
        lost = self.skipped.lines()
        return f"; {len(lost)} were left out, such as {min(lost)}" if lost else ""

    @cached_property
    def held_out_source(self) -> ImageSource:
        """The images of an evaluation, in order."""
        side = self._side(self.recipe.phases[-1].image_size, training=False)
        return ImageSource(side.views, side.labels, self.recipe.data, 0, top5=True)

    @property
    def held_out(self) -> Sequence[Batch]:
        return late_batches(self.held_out_source, self.recipe.engine.evaluation_batch_size)

    def inputs(self) -> dict[str, str]:
        """Returns the fingerprint of the labels and the names, in order: what a position in the stream means."""
        images, last = self.training, len(self.training.labels) - 1
        named = "\n".join([*images.classes, *(images.name(place).rsplit("/", 1)[-1] for place in (0, last))])
        return {"data": hashlib.sha256(named.encode(errors="replace") + images.labels.tobytes()).hexdigest()}

    def summary(self) -> dict[str, Any]:
        return {"classes": len(self.training.classes)}

    def load(self, folder: Path) -> ImageClassifier:
        return ImageClassifier.load(folder)

    def scores(self, model: ImageClassifier, *, at_end: bool) -> Scores:
        """Returns loss, top-1 and top-5; at the end also the number of images that were left out."""
        recipe, source = self.recipe, self.held_out_source
        name = self._side(recipe.phases[-1].image_size, training=False).name
        run = self.run if at_end else None
        found = judge(model, source, name, self.training.classes, run, recipe.engine.evaluation_batch_size)
        return {**found, "skipped_images": self.skipped.count()} if at_end else found

    def _side(self, size: int, training: bool) -> Side:
        if (size, training) not in self._sides:
            images = self.training if training else self.reserved
            self._sides[size, training] = _side(self.recipe, images, size, training, self.skipped)
        return self._sides[size, training]


class Skipped:
    """A file with a line for each image that is left out, and why. Ranks append to it, each line in one write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = set(self.lines())

    def __call__(self, name: str, reason: str) -> None:
        self.note(f"{name}: {reason}")

    def note(self, line: str) -> None:
        line = " ".join(line.split())
        if line not in self._lines:
            self._lines.add(line)
            with open(self.path, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(line + "\n")

    def count(self) -> int:
        """Lines of all ranks, each once."""
        return len(set(self.lines()))

    def lines(self) -> list[str]:
        return self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []


def _check(recipe: ImageRecipe) -> None:
    grouped = has_batch_norm(recipe.model.architecture)
    if grouped and recipe.model.batch_norm_group is None:
        raise InputError(f"model.batch_norm_group is not set: {recipe.model.architecture} has BatchNorm layers")
    if not grouped and recipe.model.batch_norm_group is not None:
        raise InputError(f"model.batch_norm_group: {recipe.model.architecture} has no BatchNorm; set it to null")
    if recipe.model.architecture == "lenet" and len({phase.image_size for phase in recipe.phases}) > 1:
        raise InputError("phases: lenet's layers fit one image_size; all phases need the same")
    if grouped and min(phase.batch_size for phase in recipe.phases) < 2:
        raise InputError("phases: a batch of 1 example has no variance for BatchNorm; must be at least 2")


def _unused(recipe: ImageRecipe, training: ImageSet) -> list[str]:
    """A line where the network has outputs for classes that no image is of, as a damaged label makes it.

    Raises:
        InputError: there are fewer than two classes.
    """
    names = training.classes
    if len(names) < 2:
        raise InputError(f"{recipe.data.path}: one class, {names[0]!r}: there is nothing to tell apart")
    if any(note.endswith(WITHOUT_IMAGES) for note in training.notes):
        return []
    empty = len(names) - len(np.unique(training.labels))
    made_for = recipe.data.source_classes
    known = f"; the recipe was made for {made_for:,}" if made_for and made_for != len(names) else ""
    return [f"{len(names):,} classes, {empty:,} of them without an image to train on{known}"] if empty else []


def open_images(recipe: ImageRecipe) -> tuple[ImageSet, ImageSet]:
    """The images to train on, and those held out."""
    data = recipe.data
    if data.path is not None:
        training, held_out = find_images(Path(data.path))
    elif data.builtin == "digits":
        training, held_out = digits(), None
    elif data.builtin == "blank":
        classes = data.source_classes or 2
        # Photographs on the web, and so in ImageNet, are most often of this size.
        size = (500, 375) if data.crop == "resized" else (recipe.phases[0].image_size,) * 2
        training, held_out = (_blank(count, classes, size) for count in (data.source_examples or classes, classes))
    else:
        raise InputError("data.path is not set: name a folder of images, --set data.path=FOLDER")
    if held_out is not None:
        return training, held_out
    parts = folded(training.labels, data.fold, data.folds)
    return training.take(parts[0]), training.take(parts[1])


def _blank(count: int, num_classes: int, size: tuple[int, int]) -> ImageSet:
    """Gray images of `size`, (width, height); they replace a set that is not at hand."""
    names = tuple(map(str, range(num_classes)))
    return ImageSet(
        np.arange(count) % num_classes,
        names,
        lambda index: f"blank image {index}",
        lambda index: Image.new("RGB", size, (128, 128, 128)),
    )


def _side(recipe: ImageRecipe, images: ImageSet, size: int, training: bool, skipped: Skipped) -> Side:
    data, channels = recipe.data, len(recipe.data.mean)
    labels = images.labels
    if data.crop == "resized":
        views = FileViews(images, size, channels, data, recipe.seed, skipped, training)
        check_readable(views)
        ways = {"threads": False, "processes": True, "auto": local_device().type == "cuda"}
        apart = training and ways[recipe.engine.decoding]
        shown = ProcessViews(views, num_threads()) if apart else views
        return Side(images, shown, labels, np.arange(len(labels)))
    pixels, numbers = decode_all(images, size, channels, recipe.seed, skipped, half_of_memory())
    own = MemoryViews(pixels, data if training else Cropping(), data.mean, recipe.seed)
    return Side(images, own, labels[numbers], numbers)


def network_settings(recipe: ImageRecipe, images: ImageSet, size: int) -> ClassifierSettings:
    """The network for the classes of `images`."""
    channels, classes = len(recipe.data.mean), len(images.classes)
    return ClassifierSettings(channels=channels, image_size=size, num_classes=classes, **vars(recipe.model))
