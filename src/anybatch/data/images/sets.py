"""Sets of labeled images, in any layout, and how a part of one is held out."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anybatch.data.sampling import random_words
from anybatch.errors import InputError

Labels = NDArray[np.int64]
Pixels = NDArray[np.uint8]

# Far above any set in use; without this bound, a damaged label would make a network of its size.
MOST_CLASSES = 10**6


class Unreadable(Exception):
    """An image that cannot be read; the message says why."""


@dataclass(frozen=True)
class Classes:
    """The class of every image, int64[N], and the name of every class; `notes` are lines about what was skipped."""

    labels: Labels
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()


class ImageSet(Protocol):
    """Numbered images, each of one class; reading one changes nothing and may be done from several threads."""

    @property
    def classes(self) -> Classes: ...

    def name(self, index: int) -> str:
        """Returns the name of an image for messages: its file, or its place in one."""
        ...

    def image(self, index: int) -> Image.Image:
        """Opens the image; does not decode it yet.

        Raises:
            Unreadable: it is not an image that Pillow knows, or its file cannot be read.
        """
        ...


@dataclass(frozen=True)
class Part:
    """Some images of a set, in the order of `chosen`, int64[M]."""

    whole: ImageSet
    chosen: NDArray[np.int64]
    classes: Classes

    @classmethod
    def of(cls, whole: ImageSet, chosen: NDArray[np.int64]) -> "Part":
        classes = whole.classes
        return cls(whole, chosen, Classes(classes.labels[chosen], classes.names, classes.notes))

    def name(self, index: int) -> str:
        return self.whole.name(int(self.chosen[index]))

    def image(self, index: int) -> Image.Image:
        return self.whole.image(int(self.chosen[index]))


@dataclass(frozen=True)
class BlankImages:
    """`count` gray images of `size`, (width, height), over `num_classes`; they replace a set that is not at hand."""

    count: int
    num_classes: int
    size: tuple[int, int]

    @property
    def classes(self) -> Classes:
        return Classes(np.arange(self.count) % self.num_classes, tuple(map(str, range(self.num_classes))))

    def name(self, index: int) -> str:
        return f"blank image {index}"

    def image(self, index: int) -> Image.Image:
        return Image.new("RGB", self.size, (128, 128, 128))


def hold_out(images: ImageSet, fold: int, folds: int) -> tuple[Part, Part]:
    """Returns (all but one fold, one fold) of `folds` parts of a set, which differ by at most one image a class.

    The fold of an image depends only on the set, never on a run's seed, so runs can be compared.

    Raises:
        InputError: `fold` is not in [0, folds), or there are fewer images than folds.
    """
    if not 0 <= fold < folds:
        raise InputError(f"data.fold = {fold}: must be at least 0 and below data.folds = {folds}")
    labels = images.classes.labels
    if len(labels) < folds:
        raise InputError(f"{len(labels)} images cannot be parted into {folds} folds; choose fewer folds")
    shuffled = np.argsort(random_words(0, "fold", [0], [0], len(labels))[0], kind="stable")
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    held = np.sort(by_class[fold::folds])
    return Part.of(images, np.setdiff1d(np.arange(len(labels)), held)), Part.of(images, held)


def noted(images: ImageSet, notes: Sequence[str]) -> ImageSet:
    """Returns the same images with more notes about what was left out."""
    known = images.classes
    return Part(images, np.arange(len(known.labels)), replace(known, notes=(*known.notes, *notes))) if notes else images


def with_classes_of(training: ImageSet, held_out: ImageSet, where: object) -> ImageSet:
    """Returns the held-out part of a set, its classes numbered as those for training; notes a class without images.

    Raises:
        InputError: it has a class that the training part does not have.
    """
    mine, theirs = training.classes.names, held_out.classes.names
    if unknown := sorted(set(theirs) - set(mine)):
        raise InputError(
            f"{where}: the held-out images have other classes than those for training, such as {unknown[0]!r}; "
            "both parts need the same classes"
        )
    number = {name: place for place, name in enumerate(mine)}
    labels = np.array([number[name] for name in theirs], dtype=np.int64)[held_out.classes.labels]
    notes = held_out.classes.notes
    if missing := [mine[place] for place in np.setdiff1d(training.classes.labels, labels)]:
        notes += (f"{where}: {len(missing):,} of {len(mine):,} classes are not held out, such as {missing[0]}",)
    return Part(held_out, np.arange(len(labels)), Classes(labels, mine, notes))


def printable(name: str) -> str:
    """Returns a file system's name as text: bytes that are not UTF-8 are escaped."""
    return os.fsencode(name).decode(errors="backslashreplace")


def numbered(names: Sequence[str]) -> tuple[Labels, tuple[str, ...]]:
    """Turns names of classes, one an image, into numbers and the sorted names."""
    unique = tuple(sorted(set(names)))
    number = {name: place for place, name in enumerate(unique)}
    return np.array([number[name] for name in names], dtype=np.int64), unique
